"""Parsing of a raw line into a JSON object, or the exact reason why it cannot be parsed.

JSON parsers accept repeated keys and change numbers silently. Both would train on something other than the data, so
they are refused here where they matter.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

import orjson

from snaketune.data.records.quarantine import RefusedLine

LONGEST_LINE = 16 << 20
# The white space of JSON, and the mark that some programs write at the beginning of a file.
BLANK = b" \t\r\n"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Keys that identify a list of objects as a conversation.
TURN_NAMES = frozenset(("role", "from", "speaker", "sender"))
NOT_NUMBERS = ("NaN", "Infinity")
# Characters that have a short escape in JSON.
SHORT_ESCAPES = frozenset('"\\/\b\f\n\r\t')
JSON_TYPES: dict[type, str] = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def as_record(value: Any) -> dict[str, Any]:
    """Return a parsed value as a record: an object, or a list of messages under the name ``messages``.

    Raises:
        Refusal: with the reason ``not_an_object``.
    """
    if type(value) is dict:
        return value
    if type(value) is list and value and all(type(turn) is dict and TURN_NAMES.intersection(turn) for turn in value):
        return {"messages": value}
    raise RefusedLine("not_an_object", f"the line is {JSON_TYPES[type(value)]}, it must be one JSON object")


def parse_line(content: bytes, complete: bool = True) -> dict[str, Any]:
    r"""Return the JSON object on a line; a list of messages is wrapped in an object.

    Args:
        content: the line without its final ``\n``.
        complete: whether the line had one; the last line of a file may lack it.

    Raises:
        Refusal: if it cannot be parsed; the reason is ``line_too_long``, ``not_json``, ``invalid_utf8``,
            ``lone_surrogate``, ``nan_literal``, ``too_deep`` or ``not_an_object``.
    """
    if len(content) > LONGEST_LINE:
        raise RefusedLine("line_too_long", f"the line is longer than {LONGEST_LINE >> 20} MiB")
    try:
        record = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise _explain(content, error, complete) from None
    return record if type(record) is dict else as_record(record)


def _explain(content: bytes, error: orjson.JSONDecodeError, complete: bool) -> RefusedLine:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as wrong:
        return RefusedLine(
            "invalid_utf8", f"byte 0x{content[wrong.start]:02x} at position {wrong.start + 1} is not UTF-8"
        )
    where = f"{error.msg} at character {error.pos + 1}"
    if text.startswith(NOT_NUMBERS, error.pos):
        return RefusedLine("nan_literal", f"NaN and Infinity are not JSON: character {error.pos + 1}")
    if "surrogate" in error.msg:
        return RefusedLine("lone_surrogate", where)
    if "depth" in error.msg or "recursion" in error.msg:
        return RefusedLine("too_deep", where)
    if not complete and error.pos >= len(text.rstrip()) - 1:
        return RefusedLine("not_json", f"{where}: the file ends in the middle of the line")
    return RefusedLine("not_json", where)


def is_list_of_objects(value: Any) -> bool:
    """Return whether a value is a list that begins with an object."""
    return type(value) is list and bool(value) and type(value[0]) is dict


def needles(names: Iterable[str]) -> tuple[bytes, ...]:
    """Return the names as they are written in JSON, for :func:`refuse_repeated`."""
    return tuple(orjson.dumps(name) for name in names)


def refuse_repeated(content: bytes, names: tuple[bytes, ...], once: int = 1) -> None:
    """Refuse a line in which an object has one of the given keys twice, so that the intended value is unknown.

    Parsers silently keep the first or the last. Counting the quoted names is cheap and finds every candidate except
    keys spelled with escapes (:func:`refuse_escaped`); only candidates are parsed again, key by key.

    Args:
        content: the raw line, known to be valid JSON.
        names: quoted keys from :func:`needles`.
        once: how often a key occurs if nothing is repeated.

    Raises:
        Refusal: with the reason ``duplicate_key``.
    """
    for name in names:
        if content.count(name) > once:
            _look_closer(content, {orjson.loads(name) for name in names})
            return


def escaped_key(names: Collection[str]) -> re.Pattern[bytes]:
    """Return a pattern that finds the end of each key among ``names`` that is spelled with escapes.

    It matches the last escape of a key and the characters that may follow it. Similar text inside strings also matches,
    which is rare and only costs a closer look.
    """
    characters = "".join(names)
    unicode = rb"\\u00[0-7]" if characters.isascii() else rb"\\u"
    escape = rb"\\." if SHORT_ESCAPES.intersection(characters) else unicode
    return re.compile(escape + rb'[^"\\]{0,%d}"\s*:' % (4 + 4 * max(map(len, names), default=0)))


def refuse_escaped(content: bytes, names: Collection[str], key: re.Pattern[bytes]) -> None:
    """Refuse a line in which an object has one of the given keys twice, once spelled with escapes.

    Args:
        content: the raw line, known to be valid JSON.
        names: the keys without escapes.
        key: their :func:`escaped_key`.

    Raises:
        Refusal: with the reason ``duplicate_key``.
    """
    if key.search(content):
        _look_closer(content, set(names))


def refuse_any_repeated(text: str, place: str) -> None:
    """Refuse JSON text in which any object has any key twice.

    Raises:
        Refusal: with the reason ``duplicate_key``.
    """

    def check(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        if len(keys) != len(set(keys)):
            raise RefusedLine("duplicate_key", f"{place}: {max(keys, key=keys.count)!r} occurs twice in one object")

    json.loads(text, object_pairs_hook=check, parse_int=str, parse_float=str)


# Numbers that may be written differently when serialised again; texts may match as well.
FRACTION = re.compile(r"\d[.eE]|-0")


class _Spelled(str):
    """A number as it is written in a line."""


def refuse_changed(content: bytes, parts_of: Callable[[dict[str, Any]], list[Any]]) -> None:
    """Refuse a line with a repeated key, or with a number that would be written differently.

    Args:
        content: the raw line, known to be valid JSON.
        parts_of: returns the parts of the record whose numbers matter, such as the arguments of calls.

    Raises:
        Refusal: with the reason ``duplicate_key`` or ``inexact_number``.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            raise RefusedLine("duplicate_key", f"{max(keys, key=keys.count)!r} occurs twice in one object")
        return found

    try:
        record = json.loads(content, object_pairs_hook=once, parse_int=str, parse_float=_Spelled)
    except RecursionError:
        raise RefusedLine("too_deep", "the line is nested too deeply to check for repeated keys") from None
    _refuse_changed_numbers(parts_of(as_record(record)))


def refuse_changed_in_text(text: str) -> None:
    """Refuse JSON text, known to be valid, with a number that a chat template would write differently.

    Raises:
        Refusal: with the reason ``inexact_number``.
    """
    if FRACTION.search(text):
        _refuse_changed_numbers([json.loads(text, parse_int=_Spelled, parse_float=_Spelled)])


def _refuse_changed_numbers(waiting: list[Any]) -> None:
    while waiting:
        value = waiting.pop()
        if type(value) is _Spelled and value != (written := _written(value)):
            raise RefusedLine(
                "inexact_number", f"a tool's {value} would be written as {written}: write it like that, or as a string"
            )
        waiting += value.values() if type(value) is dict else value if type(value) is list else ()


def _written(number: str) -> str:
    """Return a number as it is written into records or, if that differs, into the text of a template."""
    if number.lstrip("-").isdecimal():
        return number if number != "-0" else "0"
    written = orjson.dumps(float(number)).decode()
    return written if written != number else json.dumps(float(number))


def _look_closer(content: bytes, names: set[str]) -> None:
    def check(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs if key in names]
        if len(keys) != len(set(keys)):
            raise RefusedLine("duplicate_key", f"{max(keys, key=keys.count)!r} occurs twice in one object")

    try:
        # Numbers stay text: Python refuses integers of thousands of digits.
        json.loads(content, object_pairs_hook=check, parse_int=str, parse_float=str)
    except RecursionError:
        raise RefusedLine("too_deep", "the line is nested too deeply to check for repeated keys") from None
