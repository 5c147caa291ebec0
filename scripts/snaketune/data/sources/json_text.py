r"""JSON texts converted to JSON lines: a stream in which the ends of items become line ends.

The commas between the items of a list become ``\n`` and other line breaks become spaces, byte for byte at the same
offset. An item therefore keeps its spelling and its offset, and errors inside it are found as on a line. A line break
inside a string, which JSON forbids, becomes ``\r``, which is forbidden as well, so that the error is still found.
"""

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from snaketune.core.errors import DataError
from snaketune.data.records.parsing import BLANK, BYTE_ORDER_MARK, is_list_of_objects, refuse_any_repeated
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.sources.json_scanner import CLOSE, COMMA, DEPTH_STEPS, KEY, NEWLINE, OPEN, Scanner

SPACE, RETURN = b" \r"
# An object's members besides its list of records are a description of it; more than this is something else.
MOST_BESIDE = 1 << 20


class Items(io.RawIOBase):
    """A JSON text as one line per item; subclasses define the items.

    Raises:
        DataError: while reading, if the brackets do not match or the text ends inside them.
    """

    what = "JSON text"

    def __init__(self, stream: io.RawIOBase, name: str):
        self._stream, self._name = stream, name
        self._scanner, self._left = Scanner(), b""
        self._items = 0

    def readable(self) -> bool:
        """Return True: this is for reading."""
        return True

    def beside(self) -> list[str]:
        """Return the names of members besides the records, known at the end."""
        return []

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` with converted text and return the number of bytes, 0 at the end."""
        view = memoryview(buffer)
        while not self._left:
            content = self._stream.read(len(view))
            if not content:
                self._end()
                return 0
            self._left = self._convert(content)
        taken, self._left = self._left[: len(view)], self._left[len(view) :]
        view[: len(taken)] = taken
        return len(taken)

    def _convert(self, piece: bytes) -> bytes:
        raise NotImplementedError

    def _end(self) -> None:
        if self._scanner.depth > 0 or self._scanner.in_string:
            raise self._cut_short()

    def _cut_short(self) -> DataError:
        return DataError(
            f"{self._name}: the {self.what} ends in the middle, in item {self._items + 1}: download or write it again."
        )

    def _unbalanced(self) -> DataError:
        return DataError(
            f"{self._name}: the brackets of the {self.what} do not match at item {self._items + 1}: correct them."
        )


def _set(text: Any, places: Any, byte: int) -> None:
    if len(places):
        text[places] = byte


class ArrayItems(Items):
    """The items of a JSON array, one per line."""

    what = "JSON array"

    def __init__(self, stream: io.RawIOBase, name: str):
        super().__init__(stream, name)
        self._is_closed = False

    def _convert(self, piece: bytes) -> bytes:
        if self._is_closed:
            self._refuse_rest(piece)
            return piece
        is_begun = self._scanner.depth > 0
        places, marks, depths, broken = self._scanner.scan(piece)
        text = np.frombuffer(bytearray(piece), np.uint8)
        # The first bracket that returns to depth 0 closes the array, even if more text follows in the same piece.
        closing = np.flatnonzero((depths <= 0) & (DEPTH_STEPS[marks] == -1))
        if len(closing):
            end = int(closing[0])
            if marks[end] != CLOSE[0]:
                raise self._unbalanced()
            self._is_closed = True
            self._refuse_rest(piece[places[end] + 1 :])
            text[places[end]] = SPACE
        if not is_begun:
            text[places[marks == OPEN[0]][:1]] = SPACE
        # Depth 1 is the array itself: commas inside the items are deeper.
        separators = places[(marks == COMMA) & (depths == 1)]
        self._items += len(separators)
        _set(text, places[marks == NEWLINE], SPACE)
        _set(text, separators, NEWLINE)
        _set(text, broken, RETURN)
        return text.tobytes()

    def _refuse_rest(self, rest: bytes) -> None:
        if rest.strip(BLANK):
            raise DataError(f"{self._name}: text follows the end of the JSON array, {_shown(rest)}: remove it.")

    def _end(self) -> None:
        if not self._is_closed:
            raise self._cut_short()


class Objects(Items):
    """Consecutive JSON objects, each over any number of lines, converted to one per line."""

    what = "JSON text"

    def __init__(self, stream: io.RawIOBase, name: str):
        super().__init__(stream, name)
        self._items = -1  # counts completed items, and the first start does not complete any

    def _convert(self, piece: bytes) -> bytes:
        places, marks, depths, broken = self._scanner.scan(piece)
        if len(depths) and depths.min() < 0:
            raise self._unbalanced()
        text = np.frombuffer(bytearray(piece), np.uint8)
        _set(text, places[(marks == NEWLINE) | ((marks == COMMA) & (depths == 0))], SPACE)
        _set(text, broken, RETURN)
        starts = places[(depths == 1) & (DEPTH_STEPS[marks] == 1)]
        following = starts[1:] if self._items < 0 else starts
        self._items += len(starts)
        return _with_breaks(text, following)


def _with_breaks(text: Any, starts: Any) -> bytes:
    """Return the text with a line break before each of the positions."""
    if not len(starts):
        found: bytes = text.tobytes()
        return found
    # White space before an object is replaced by the line end; without white space, a line end is inserted.
    after_blank = np.isin(text[starts - 1], list(BLANK)) & (starts > 0)
    text[starts[after_blank] - 1] = NEWLINE
    tight = starts[~after_blank]
    return (np.insert(text, tight, NEWLINE) if len(tight) else text).tobytes()


@dataclass(slots=True)
class _Outside:
    """The text around the list of an object, and whether the list has begun and ended."""

    text: bytearray = field(default_factory=bytearray)
    has_begun: bool = False
    has_ended: bool = False


class ListItems(Items):
    """The items of the list of records in a JSON object, one per line.

    Args:
        member: name of the list.
    """

    what = "JSON object"

    def __init__(self, stream: io.RawIOBase, name: str, member: str):
        super().__init__(stream, name)
        self._member, self._outside = member, _Outside()

    def beside(self) -> list[str]:
        """Return the names of the other members."""
        return [key for key in orjson.loads(self._outside.text.removeprefix(BYTE_ORDER_MARK)) if key != self._member]

    def _convert(self, piece: bytes) -> bytes:
        places, marks, depths, broken = self._scanner.scan(piece)
        text = np.frombuffer(bytearray(piece), np.uint8)
        start = 0 if self._outside.has_begun else self._start(piece, places, marks, depths)
        end = len(piece)
        if self._outside.has_begun and not self._outside.has_ended:
            ends = places[(places >= start) & (depths == 1) & (DEPTH_STEPS[marks] == -1)]
            if len(ends):
                end, self._outside.has_ended = int(ends[0]), True
        elif self._outside.has_ended:
            end = 0
        self._keep(piece, start, end)
        inside = (places >= start) & (places < end)
        separators = places[inside & (marks == COMMA) & (depths == 2)]
        self._items += len(separators)
        _set(text, places[marks == NEWLINE], SPACE)
        _set(text, separators, NEWLINE)
        _set(text, broken, RETURN)
        text[:start] = SPACE
        text[end:] = SPACE
        return text.tobytes()

    def _start(self, piece: bytes, places: Any, marks: Any, depths: Any) -> int:
        """Return the position after the bracket that opens the list, or the length of the piece if it does not open."""
        opening = places[(depths == 2) & (marks == OPEN[0])]
        for place in map(int, opening):
            found = KEY.search(bytes(self._outside.text[-MOST_BESIDE:]) + piece[:place])
            if found and orjson.loads(found[1]) == self._member:
                self._outside.has_begun = True
                return place + 1
        return len(piece)

    def _keep(self, piece: bytes, start: int, end: int) -> None:
        # Everything around the list is kept and parsed at the end, so that nothing of it goes unnoticed.
        self._outside.text += piece[:start] + piece[end:] if start <= end else piece
        if len(self._outside.text) > MOST_BESIDE:
            member = orjson.dumps(self._member).decode()
            raise DataError(
                f"{self._name}: the JSON object has much content besides the list {member}, so it is unclear which"
                f" list is meant: write the right one to a file, `jq -c '.[{member}][]' FILE > lines.jsonl`."
            )

    def _end(self) -> None:
        super()._end()
        try:
            text = bytes(self._outside.text.removeprefix(BYTE_ORDER_MARK))
            outside = orjson.loads(text)
            refuse_any_repeated(text.decode(), "the object")
        except (orjson.JSONDecodeError, RefusedLine) as error:
            reason = error.detail if isinstance(error, RefusedLine) else error.msg
            raise DataError(
                f"{self._name}: the content besides the list {self._member!r} cannot be read ({reason}): correct it."
            ) from None
        others = [key for key, value in outside.items() if key != self._member and is_list_of_objects(value)]
        if others:
            member = orjson.dumps(self._member).decode()
            raise DataError(
                f"{self._name} holds several lists, {self._member!r} and {others[0]!r}: write the right one to a file, "
                f"`jq -c '.[{member}][]' FILE > lines.jsonl`."
            )


def _shown(text: bytes) -> str:
    return repr(text.strip(BLANK)[:40].decode("utf-8", "replace"))
