"""Conversations stored as text in a column: as JSON, or as Python prints a list, which exports of tables often do."""

import ast
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from snaketune.core.canonical import Json
from snaketune.data.formats.columns import COLUMN_NAMES, plain_name
from snaketune.data.formats.first_records import has_roles, is_turns
from snaketune.data.records.parsing import refuse_any_repeated
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.records.reading_policy import ReadingPolicy

# Longer lists in Python's notation are not parsed: ast takes a hundred times their size in memory.
LONGEST_LITERAL = 1 << 20


def packed_columns(records: Sequence[Json], policy: ReadingPolicy) -> tuple[str, ...]:
    """Return the columns whose texts are conversations in most of the records that have them.

    Columns of answers are excluded, since answers may be meant to be JSON, and so is the configured text column.
    """
    taken = {*policy.ignore, policy.columns.get("text")}
    names = dict.fromkeys(name for record in records for name, value in record.items() if type(value) is str)
    return tuple(
        name
        for name in names
        if name not in taken
        and plain_name(name) not in COLUMN_NAMES["completion"]
        and _are_packed([record[name] for record in records if record.get(name)], policy.roles)
    )


def unpacked_columns(record: Json, names: Iterable[str]) -> Json:
    """Return a record with the conversations of some columns as lists.

    Raises:
        Refusal: with the reason ``not_packed`` if the text is not a list of messages, or ``duplicate_key``.
    """
    return {**record, **{name: _read(record, name) for name in names if type(record.get(name)) is str}}


def _are_packed(values: Sequence[Any], roles: dict[str, str]) -> bool:
    if not any(type(value) is str and value.lstrip().startswith("[") for value in values):
        return False
    read = [_parsed(value) for value in values if type(value) is str]
    return sum(has_roles(found) and is_turns(found, roles) for found in read) > len(values) / 2


def _read(record: Mapping[str, Any], name: str) -> Any:
    text = record[name]
    found = _parsed(text)
    if not has_roles(found):
        raise RefusedLine("not_packed", f"{name!r} is text but not a list of messages, unlike in other records")
    refuse_any_repeated(orjson.dumps(found).decode() if text.lstrip()[2:3] == "'" else text, repr(name))
    return found


def _parsed(text: str) -> Any:
    """Return the list that a text represents, None if it does not represent one."""
    bare = text.lstrip()
    if not bare.startswith("["):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _literal(bare)


def _literal(text: str) -> Any:
    if len(text) > LONGEST_LITERAL or not text.startswith(("[{'", '[{"')):
        return None
    try:
        found = ast.literal_eval(text)
        orjson.dumps(found)  # sets, bytes and complex numbers are no JSON
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return found
