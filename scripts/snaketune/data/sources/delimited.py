"""Delimited tables: CSV, TSV and similar by the rules of RFC 4180, cut at row ends and read row by row.

A field is quoted as a whole or not at all; inside quotes, a quote is doubled, and separators and line breaks are text.
Every value is kept exactly as text, including empty ones. A row whose number of fields differs from the header's is
refused, since its values have shifted to other columns.

Rows are matched by regular expressions with possessive quantifiers, which never backtrack: on malformed input they fail
in linear time.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from snaketune.core.errors import DataError
from snaketune.data.records.parsing import LONGEST_LINE
from snaketune.data.sources.pieces import BLOCK_BYTES, Piece

# Spreadsheets write this first line to declare the separator.
SEPARATOR_LINE = re.compile(rb'"?sep=(.)"?\r?\n')
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
MOST_COLUMNS = 2000
LONGEST_COLUMN_NAME = 200
SNIFFED_ROWS = 200
INDEX_COLUMN = "index"
# The line end of classic Mac OS, still found in a few files.
OLD_END = rb"\r"


@dataclass(frozen=True)
class Dialect:
    """The syntax of rows: the separator, whether fields may be quoted, and the pattern of a row end."""

    separator: str
    quoted: bool = True
    end: bytes = rb"\r?\n"

    @cached_property
    def field(self) -> bytes:
        """The pattern of one field; text that begins with a quote but is not quoted as a whole does not match."""
        plain = rb"[^%s\r\n]*+" % self.between
        if self.end != OLD_END:  # a carriage return inside a line is text
            plain += rb"(?:\r(?!\n)%s)*+" % plain
        return rb'(?:"(?:[^"]++|"")*+"|(?!")%s)' % plain if self.quoted else plain

    @cached_property
    def between(self) -> bytes:
        """The pattern of a separator."""
        return re.escape(self.separator).encode()

    @cached_property
    def fields(self) -> re.Pattern[bytes]:
        """The pattern of a row without its end."""
        return re.compile(b"%s(?:%s%s)*+" % (self.field, self.between, self.field))

    @cached_property
    def row(self) -> re.Pattern[bytes]:
        """The pattern of a row with its end."""
        return re.compile(self.fields.pattern + b"(?:%s)" % self.end)

    def row_of(self, columns: int) -> re.Pattern[bytes]:
        """Return the pattern of a blank row, or a row of that many fields (groups), which may end with the text."""
        fields = self.between.join([b"(" + self.field + b")"] * columns)
        return re.compile(rb"(?:%s)?+(?:%s|\Z)" % (fields, self.end))

    def whole_row_of(self, columns: int) -> re.Pattern[bytes]:
        """Return the pattern of a blank row, or of a row of that many fields, with its end."""
        return re.compile(rb"(?:%s)?+(?:%s)" % (self.between.join([self.field] * columns), self.end))

    def values(self, row: bytes) -> list[bytes]:
        """Return the fields of a row that :attr:`fields` matches, without their quotes."""
        found, position = [], 0
        field = re.compile(self.field)
        while match := field.match(row, position):
            found.append(self.unquoted(match[0]))
            position = match.end() + 1
            if match.end() >= len(row):
                break
        return found

    def unquoted(self, field: bytes) -> bytes:
        """Return the text of a field without its quotes."""
        return field[1:-1].replace(b'""', b'"') if self.quoted and field[:1] == b'"' else field


@dataclass(frozen=True)
class RowCoding:
    """The conversion of rows into objects: the name, dialect and columns of the table."""

    name: str
    dialect: Dialect
    columns: tuple[str, ...]

    def items(self, content: bytes, number: int) -> list[bytes | dict[str, str]]:
        """Return an object for each row, empty bytes for a blank row, and the raw bytes of a row that is not UTF-8.

        Args:
            content: whole rows.
            number: number of the first row.

        Raises:
            DataError: at a row whose number of fields differs from the header's.
        """
        found: list[bytes | dict[str, str]] = []
        row, columns, position = self._row.match, self.columns, 0
        # Most tables have no quotes: one search of the block saves a test per field.
        has_quotes = self.dialect.quoted and b'"' in content
        while position < len(content) and (match := row(content, position)) and match.end() > position:
            position = match.end()
            values: Sequence[bytes] = match.groups()
            if has_quotes and values[0] is not None:
                values = [value[1:-1].replace(b'""', b'"') if value[:1] == b'"' else value for value in values]
            if values[0] is None or not match[0].strip(
                b"\r\n"
            ):  # a blank row; in a table of one column, an empty value
                found.append(b"")
                continue
            try:
                found.append(dict(zip(columns, map(bytes.decode, values), strict=True)))
            except UnicodeDecodeError:
                found.append(match[0].rstrip(b"\r\n"))
        if position < len(content):
            raise self._ragged(content[position:], number + len(found))
        return found

    @cached_property
    def _row(self) -> re.Pattern[bytes]:
        return self.dialect.row_of(len(self.columns))

    def _ragged(self, rest: bytes, number: int) -> DataError:
        match = self.dialect.fields.match(rest)
        width = len(self.dialect.values(match[0])) if match else 0
        columns = ", ".join(self.columns[:8]) + (", …" if len(self.columns) > 8 else "")
        return DataError(
            f"{self.name} row {number} has {width} fields and the header {len(self.columns)} ({columns}): quote fields "
            f"that contain {SEPARATORS[self.dialect.separator]} or a line break; correct the row."
        )


class RowCutter:
    """Cuts a stream of rows after the last row end in every 256 KiB."""

    def __init__(self, stream: io.RawIOBase, coding: RowCoding, skipped: int):
        """Start after ``skipped`` bytes of header."""
        self._stream, self._coding, self._dialect = stream, coding, coding.dialect
        self._row = coding.dialect.whole_row_of(len(coding.columns))
        self._offset, self._number = skipped, 1

    def cut(self) -> Iterator[Piece]:
        """Yield pieces of whole rows.

        Raises:
            DataError: at a row whose end cannot be determined.
        """
        rest = b""
        while content := self._stream.read(BLOCK_BYTES):
            rest += content
            end, rows = self._whole_rows(rest)
            if end:
                yield self._piece(rest[:end], rows)
                rest = rest[end:]
            self._refuse_endless(rest)
        if rest:
            if not self._dialect.fields.fullmatch(rest.rstrip(b"\r\n")):
                raise self._malformed(rest)
            yield self._piece(rest, 1)

    def _whole_rows(self, content: bytes) -> tuple[int, int]:
        """Return the end of the last whole row and the number of whole rows."""
        position = count = 0
        row = self._row.match  # at exactly this position; a search would try every later one
        while match := row(content, position):
            position, count = match.end(), count + 1
        return position, count

    def _piece(self, content: bytes, rows: int) -> Piece:
        piece = Piece(self._number, self._offset, len(content), content, self._coding)
        self._number, self._offset = self._number + rows, self._offset + len(content)
        return piece

    def _refuse_endless(self, rest: bytes) -> None:
        """Refuse a row that is not merely unfinished: a complete row here has the wrong number of fields."""
        if ended := self._dialect.row.match(rest):
            self._coding.items(ended[0], self._number)
        match = self._dialect.fields.match(rest)
        reached = match.end() if match else 0
        opening = self._dialect.separator.encode() + b'"' if reached else b'"'
        # The last byte may be a carriage return whose line feed has not been read yet.
        is_unfinished = reached >= len(rest) - 1 or rest.startswith(opening, reached)
        if len(rest) > LONGEST_LINE or not is_unfinished:
            raise self._malformed(rest)

    def _malformed(self, rest: bytes) -> DataError:
        match = self._dialect.fields.match(rest)
        reached = match.end() if match else 0
        follows = rest[reached : reached + 20].decode("utf-8", "replace")
        return DataError(
            f"{self._coding.name} row {self._number}: a quote is opened and not closed, or text follows a closed one,"
            f" at {follows!r}: quote the field and double the quotes inside it."
        )


def sniff(head: bytes, is_whole: bool, name: str) -> tuple[RowCoding, int] | None:
    """Return the coding of a table and the number of bytes of its header, None if the text is not a table.

    Args:
        head: the beginning of the text, without a byte order mark.
        is_whole: whether this is the whole text.
        name: the user's name of the file; with a table's suffix, less regular text is accepted as a table.

    Raises:
        DataError: if the header cannot be used.
    """
    skipped, wanted = 0, tuple(SEPARATORS)
    if (line := SEPARATOR_LINE.match(head)) and line[1].decode("latin-1") in SEPARATORS:
        skipped, wanted = line.end(), (line[1].decode("latin-1"),)
    text = head[skipped:]
    end = rb"\r?\n" if b"\n" in text else OLD_END
    # Prose with commas can look like a table; a name that says so lowers the bar.
    is_named = is_named_as_table(name)
    dialects = [Dialect(one, quoted, end) for one in wanted for quoted in (True, False) if quoted or one == "\t"]
    # Every dialect is tried on the same rows, rather than counting separators, which quoted text may contain.
    best = max(((_fit(one, text, is_whole), one) for one in dialects), key=_preference)
    (is_even, columns, rows), dialect = best
    if not is_named and (not is_even or columns < 2 or rows < 2):
        return None
    match = dialect.fields.match(text)
    header = match[0] if match else b""
    names = [one.decode("utf-8", "replace").strip() for one in dialect.values(header)]
    if any(names):
        names = [one or _called(place, is_named) for place, one in enumerate(names, 1)]
    if not is_named and not all(0 < len(one) <= 64 for one in names):
        return None
    _check_header(names, name)
    ended = re.compile(dialect.end).match(text, len(header))
    return RowCoding(name, dialect, tuple(names)), skipped + (ended.end() if ended else len(header))


def _called(place: int, is_named: bool) -> str:
    """Return a name for a column without one, '' if its absence means that the text is not a table.

    pandas writes row numbers in an unnamed first column; spreadsheets leave empty columns after the last one.
    """
    if place == 1:
        return INDEX_COLUMN
    return f"column_{place}" if is_named else ""


def is_named_as_table(name: str) -> bool:
    """Return whether a file has the suffix of a table."""
    return ".csv" in name.lower() or ".tsv" in name.lower()


def _preference(found: tuple[tuple[bool, int, int], Dialect]) -> tuple[bool, int, bool, int]:
    """Return the sort key of dialects: if both fit, the quoted one wins, although the other one yields more rows."""
    (is_even, columns, rows), dialect = found
    return is_even and columns > 1, columns, dialect.quoted, rows


def _fit(dialect: Dialect, text: bytes, is_whole: bool) -> tuple[bool, int, int]:
    """Return whether the first rows all have the same number of fields, that number, and the number of rows."""
    widths: list[int] = []
    position = 0
    while len(widths) < SNIFFED_ROWS and (match := dialect.row.match(text, position)):
        position = match.end()
        row = match[0].rstrip(b"\r\n")
        if row:
            widths.append(len(dialect.values(row)))
    rest = text[position:]
    is_read = len(widths) == SNIFFED_ROWS or not is_whole or not rest
    if not is_read and (match := dialect.fields.fullmatch(rest)):
        widths.append(len(dialect.values(rest)))
        is_read = True
    if not widths:
        return False, 0, 0
    return is_read and len(set(widths)) == 1, widths[0], len(widths)


def _check_header(names: list[str], path: str) -> None:
    if len(names) > MOST_COLUMNS:
        raise DataError(
            f"{path} has {len(names):,} columns, more than {MOST_COLUMNS:,}: write the needed ones to a new file."
        )
    if not any(names) or any(len(name) > LONGEST_COLUMN_NAME for name in names):
        raise DataError(
            f"{path} has no column names in its first row: add them, with the same separator as the values."
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path} has two columns named {twice[0]!r}: rename one of them.")
