"""Checks that need the raw line rather than the parsed record: repeated keys, and numbers that would change.

A full check would parse every line a second time. Counting bytes first leaves few lines to check in detail.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from typing import Any

from snaketune.core.canonical import Json
from snaketune.data.conversations.role_names import CONTENT_KEYS, ROLE_KEYS, TURN_KEYS
from snaketune.data.formats.columns import COLUMN_NAMES
from snaketune.data.records.field_paths import column_of
from snaketune.data.records.parsing import escaped_key, needles, refuse_changed, refuse_escaped, refuse_repeated
from snaketune.data.records.reading_policy import SourceReading

CALL_FIELDS = ("tool_calls", "function_call", "tools", "functions")


def repetition_check(reading: SourceReading) -> Callable[[bytes, Json], None]:
    """Return the check of a line for repeated columns, repeated keys of turns, and inexact numbers of tools.

    A line with as many colons as keys has no repeated key; other lines have colons in texts, or nested objects.

    Returns:
        A function of the raw line and its record, which raises Refusal.
    """
    main = [column_of(path) for path in dict(reading.fields).values()]
    beside = [name for field in ("system", "tools", "history", "input", "reasoning") for name in COLUMN_NAMES[field]]
    optional = {name: needles([name]) for name in beside if name not in main}
    required, rare = needles(main), needles(TURN_KEYS)
    tools = frozenset((reading.field("tools") or "tools", *COLUMN_NAMES["tools"]))
    every = frozenset((*main, *beside, *TURN_KEYS))
    escaped = escaped_key(every)

    def check(content: bytes, record: Json) -> None:
        colons = content.count(b":")
        if colons == len(record):
            return
        turns: list[Any] = []
        for name in main:
            if type(found := record.get(name)) is list:
                turns = turns + found if turns else found
        # The record was converted already, so the items are all objects or all texts.
        objects = turns if turns and type(turns[0]) is dict else []
        inside = sum(map(len, objects))
        if colons == len(record) + inside:
            return
        # The byte counts below look for names as they are usually written; a name with an escape would be missed.
        refuse_escaped(content, every, escaped)
        for needle in required:
            if content.count(needle) > 1:
                refuse_repeated(content, required)
        if not optional.keys().isdisjoint(record):
            for name in optional.keys() & record.keys():
                refuse_repeated(content, optional[name])
        if objects:
            # Each turn may have a key once, so the number of turns is the limit for the whole line.
            refuse_repeated(content, _inner(frozenset(chain.from_iterable(objects))), once=len(objects))
            # Turns of two keys each have only a role and a content, which were counted just now.
            if inside > 2 * len(objects):
                refuse_repeated(content, rare)
        if not tools.isdisjoint(record) or any(key in turn for turn in objects for key in CALL_FIELDS):
            # Arguments of calls are trained as the text of a JSON value: a number that a float cannot hold would be
            # trained changed.
            refuse_changed(content, lambda parsed: _of_tools(parsed, main, tools))

    return check


@lru_cache(maxsize=256)
def _inner(keys: frozenset[str]) -> tuple[bytes, ...]:
    """Return the needles of the keys that each turn may have once."""
    return needles(key for key in (*ROLE_KEYS, *CONTENT_KEYS) if key in keys)


def _of_tools(record: Json, columns: list[str], tools: frozenset[str]) -> list[Any]:
    """Return the parts of a record that are tools or tool calls."""
    found = [record[name] for name in sorted(tools) if name in record]
    for column in columns:
        turns = record.get(column)
        for turn in turns if type(turns) is list else ():
            if type(turn) is dict:
                found += [turn] if "arguments" in turn else []
                found += [turn[key] for key in CALL_FIELDS if key in turn]
    return found
