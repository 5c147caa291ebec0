"""Recognition of a source's container by content: lines of JSON, a JSON text, CSV or similar, Parquet or Arrow.

File names are often wrong or missing, and one extension (.json) is in use for both lines and whole texts.
"""

from dataclasses import dataclass

import orjson

from snaketune.data.records.parsing import BLANK, BYTE_ORDER_MARK, LONGEST_LINE, is_list_of_objects
from snaketune.data.sources.contents import Content
from snaketune.data.sources.delimited import RowCoding, is_named_as_table, sniff
from snaketune.data.sources.source_files import refuse_foreign
from snaketune.data.sources.tables import ARROW_MAGIC, PARQUET_MAGIC, STREAM_MAGIC

LINES, ARRAY, OBJECTS, MEMBER, ROWS_CONTAINER, TABLE_CONTAINER = "lines", "array", "objects", "member", "rows", "table"
HEAD_BYTES = 1 << 20
# Number of objects parsed to recognise a text of consecutive objects.
SAMPLED_OBJECTS = 64
# Keys of messages: a list of objects with one of them is a conversation, so part of a record.
OF_A_TURN = frozenset(("role", "from"))
# Columns of records: an object with one of them is a record itself, whatever lists it contains.
OF_A_RECORD = frozenset(
    (
        *("messages", "conversations", "conversation", "prompt", "completion", "instruction", "question", "answer"),
        *("input", "output", "text", "chosen", "rejected", "response", "query", "problem", "solution", "instances"),
    )
)


@dataclass(frozen=True, slots=True)
class Container:
    """The container of a source.

    Attributes:
        kind: one of the constants of this module; ``label`` is its name for messages, empty for lines of JSON.
        unit: what a record is called: line, item or row.
        member: name of the list of records in an object.
        coding: coding of a delimited table; ``skipped`` is the number of bytes before its first row.
    """

    kind: str = LINES
    label: str = ""
    unit: str = "line"
    member: str = ""
    coding: RowCoding | None = None
    skipped: int = 0


def recognise(content: Content) -> Container:
    """Return the container of a content.

    Raises:
        DataError: if records cannot be read from it.
    """
    if content.file is not None:
        is_parquet = content.file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
        content.file.seek(0)
        return Container(TABLE_CONTAINER, "Parquet" if is_parquet else "Arrow", "row")
    head = content.stream.peek(HEAD_BYTES)
    if head.startswith((STREAM_MAGIC, ARROW_MAGIC)):
        return Container(TABLE_CONTAINER, "Arrow", "row")
    refuse_foreign(head[:512], content.name, inside=bool(content.layers))
    mark = len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0
    is_whole = len(head) < HEAD_BYTES
    text = head[mark:]
    begin = text.lstrip(BLANK)
    if begin[:1] in (b"[", b"{"):
        found = _recognise_json(content, begin, is_whole)
    else:
        found = _recognise_table(text, is_whole, f"{content.name} {content.member}".strip(), mark)
    return found


def _recognise_table(text: bytes, is_whole: bool, name: str, mark: int) -> Container:
    if not text.strip():
        return Container()
    has_objects = any(map(_is_object, text.split(b"\n", 20)[:20]))
    if not is_named_as_table(name) and (has_objects or b"\0" in text):
        return Container()
    if not (found := sniff(text, is_whole, name)):
        return Container()
    coding, skipped = found
    kind = {",": "CSV", "\t": "TSV"}.get(coding.dialect.separator, "CSV")
    between = {";": " with semicolons", "|": " with bars"}.get(coding.dialect.separator, "")
    return Container(ROWS_CONTAINER, kind + between, "row", "", coding, mark + skipped)


def _recognise_json(content: Content, begin: bytes, is_whole: bool) -> Container:
    # A complete value on the first line with more text after it means JSON lines. A first line longer than the head
    # needs a longer look, up to the longest line that is read.
    line, ended, rest = begin.partition(b"\n")
    if not ended and not is_whole:
        begin = content.stream.peek(LONGEST_LINE + HEAD_BYTES).removeprefix(BYTE_ORDER_MARK).lstrip(BLANK)
        is_whole = len(begin) < LONGEST_LINE
        line, ended, rest = begin.partition(b"\n")
    value = _parsed(line) if ended or is_whole else None
    if value is not None and (rest.strip(BLANK) or not is_whole):
        return Container()
    if begin[:1] == b"[":
        is_dialogue = type(value) is list and bool(value) and _is_turn(value[0])
        return Container() if is_dialogue else Container(ARRAY, "JSON array", "item")
    if value is not None:
        return _of_object(value, Container())
    return _of_long_object(begin, is_whole)


def _of_long_object(begin: bytes, is_whole: bool) -> Container:
    """Return the container of a text that begins with an object longer than its first line."""
    objects = Container(OBJECTS, "JSON objects", "item")
    values, end = _values(begin)
    if values and end:
        is_alone = is_whole and len(values) == 1
        return _of_object(values[0], objects) if is_alone else objects
    lines = [line for line in begin.split(b"\n") if line.strip(BLANK)]
    if values or 2 * sum(map(_is_object, lines)) >= len(lines) > 1:
        return Container()
    member = _first_list(begin)
    return _list_of(member) if member else objects


def _values(begin: bytes) -> tuple[list[object], int]:
    """Return the objects at the beginning of a text and their end, or 0 if the text is not consecutive objects.

    Objects on one line each are JSON lines; an object with a line break inside, or two on one line, rule that out.
    """
    from snaketune.data.sources.json_scanner import ends_of_values

    values: list[object] = []
    start = 0
    for end in ends_of_values(begin)[:SAMPLED_OBJECTS]:
        value = _parsed(begin[start:end])
        if value is None:
            return values, 0
        values.append(value)
        following = begin[end:].lstrip(BLANK + b",")
        start = len(begin) - len(following)
        if following and not following.startswith(b"{"):
            return values, 0
    is_on_lines = b"\n" not in begin[:start].strip(BLANK) and len(values) < 2
    return values, 0 if is_on_lines and begin[start:] else start


def _of_object(value: object, otherwise: Container) -> Container:
    """Return the container of a file with a single object: one with a list of records, or a record itself."""
    if type(value) is not dict or OF_A_RECORD.intersection(key.lower() for key in value):
        return otherwise
    lists = [key for key, inner in value.items() if is_list_of_objects(inner)]
    if not lists or any(_is_turn(value[key][0]) for key in lists):
        return otherwise
    return _list_of(lists[0])


def _list_of(member: str) -> Container:
    return Container(MEMBER, f"JSON object with the list {member!r}", "item", member)


def _first_list(begin: bytes) -> str:
    """Return the name of the first member of an unfinished object that is a list of objects other than messages."""
    from snaketune.data.sources.json_scanner import ends_of_values, lists_in_object

    for key, place in lists_in_object(begin):
        inside = begin[place:].lstrip(BLANK)
        if not inside.startswith(b"{"):
            continue
        ends, name = ends_of_values(inside), _parsed(key)
        is_turn = bool(ends) and _is_turn(_parsed(inside[: ends[0]]))
        return name if isinstance(name, str) and not is_turn and name.lower() not in OF_A_RECORD else ""
    return ""


def _parsed(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _is_object(line: bytes) -> bool:
    return line.lstrip(BLANK).startswith(b"{") and _parsed(line) is not None


def _is_turn(value: object) -> bool:
    return isinstance(value, dict) and bool(OF_A_TURN.intersection(value))
