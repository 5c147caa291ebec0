"""Checks of a raw line that its parsed record cannot answer: keys that are written twice, numbers that would change."""

from collections.abc import Callable
from typing import Any

from snaketune.data.columns import NAMES
from snaketune.data.parsing import escaped_key, needles, refuse_changed, refuse_escaped, refuse_repeated
from snaketune.data.paths import column_of
from snaketune.data.policy import Reading
from snaketune.data.turn_names import CONTENT_KEYS, ROLE_KEYS, TURN_KEYS

Json = dict[str, Any]
CALLS = ("tool_calls", "function_call", "tools", "functions")


def repetition_check(reading: Reading) -> Callable[[bytes, Json], None]:
    """Return the check of a line for columns, or keys of a turn, that are written twice, and for numbers of tools.

    A line with as many colons as keys has none twice; others have colons in their texts, or nested objects.

    Returns:
        A function of the raw line and its record, which raises Refusal.
    """
    main = [column_of(path) for path in dict(reading.fields).values()]
    beside = [name for field in ("system", "tools", "history", "input", "reasoning") for name in NAMES[field]]
    optional = [(name, needles([name])) for name in dict.fromkeys(beside) if name not in main]
    required, inner, rare = needles(main), needles((*ROLE_KEYS, *CONTENT_KEYS)), needles(TURN_KEYS)
    tools = tuple(dict.fromkeys((reading.field("tools") or "tools", *NAMES["tools"])))
    every = frozenset((*main, *beside, *TURN_KEYS))
    escaped = escaped_key(every)

    def check(content: bytes, record: Json) -> None:
        turns: list[Any] = []
        for name in main:
            found = record.get(name)
            if type(found) is list:
                turns = turns + found if turns else found
        inside = sum([len(turn) for turn in turns if type(turn) is dict])
        if content.count(b":") == len(record) + inside:
            return
        refuse_escaped(content, every, escaped)
        for needle in required:
            if content.count(needle) > 1:
                refuse_repeated(content, required)
        for name, quoted in optional:
            if name in record:
                refuse_repeated(content, quoted)
        if turns:
            refuse_repeated(content, inner, once=len(turns))
            if inside > 2 * len(turns):
                refuse_repeated(content, rare)
        if any(name in record for name in tools) or any(
            key in turn for turn in turns if type(turn) is dict for key in CALLS
        ):
            refuse_changed(content, lambda parsed: _of_tools(parsed, main, tools))

    return check


def _of_tools(record: Json, columns: list[str], tools: tuple[str, ...]) -> list[Any]:
    """Return the parts of a record that are tools or calls of them."""
    found = [record[name] for name in tools if name in record]
    for column in columns:
        turns = record.get(column)
        for turn in turns if type(turns) is list else ():
            if type(turn) is dict:
                found += [turn[key] for key in CALLS if key in turn]
    return found
