"""Arrow and Parquet tables, read a few rows at a time; each row becomes the object that JSON would have.

Text, integers and lists stay as they are. Null values are left out, and so is NaN, which stands for null in numeric
columns. Dates and times become ISO 8601 text, decimals the text of their digits. Bytes become text if they are UTF-8,
otherwise ``{"bytes": length}``, which nothing reads as text.
"""

import datetime
import decimal
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any

from snaketune.core.errors import DataError
from snaketune.data.records.parsing import LONGEST_LINE
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.sources.pieces import BLOCK_BYTES, Piece

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET_MAGIC, ARROW_MAGIC = b"PAR1", b"ARROW1"
# An Arrow stream begins with a continuation marker, followed by the length of the schema and its flatbuffer.
STREAM_MAGIC = b"\xff\xff\xff\xff"
ROWS_OF_A_BATCH = 1024
PAGE_BYTES = 1 << 20

Convert = Callable[[Any], Any]


@dataclass(frozen=True)
class TableCoding:
    """Decodes the rows of a piece, an Arrow stream, into objects."""

    name: str

    def items(self, content: bytes, number: int) -> list[Any]:
        """Return an object for each row, or a refusal for a row over 16 MiB or with a value that cannot be read."""
        import pyarrow as pa

        table = pa.ipc.open_stream(content).read_all()
        if len(content) > LONGEST_LINE and table.num_rows == 1:
            return [RefusedLine("line_too_long", f"the row is longer than {LONGEST_LINE >> 20} MiB")]
        try:
            return rows_of(table)
        except (ValueError, KeyError, OverflowError, pa.ArrowException):
            return [_row(table.slice(place, 1)) for place in range(table.num_rows)]


class TableCutter:
    """Cuts a table into pieces of about 256 KiB.

    Args:
        file: the table with random access, or None for a stream.
        stream: its bytes from the beginning.
        name: the user's name of the file.
    """

    def __init__(self, file: IO[bytes] | None, stream: io.RawIOBase, name: str):
        self._file, self._stream, self._name = file, stream, name
        self._number = 1
        self._share = 0.0

    def reached(self, size: int) -> int:
        """Return the share of the rows so far in the ``size`` bytes of the file."""
        return int(self._share * size)

    def cut(self) -> Iterator[Piece]:
        """Yield pieces of whole rows.

        Raises:
            DataError: if the file is damaged or truncated.
        """
        import pyarrow as pa

        try:
            for batch in self._batches():
                yield from self._pieces(batch)
        except (pa.ArrowException, OSError, EOFError, LookupError, ValueError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reached = f" after row {self._number - 1:,}" if self._number > 1 else ""
            raise DataError(
                f"{self._name}: the table is damaged or truncated{reached} ({_brief(error)}): write it again."
            ) from None

    def _batches(self) -> Iterator["pa.RecordBatch"]:
        import pyarrow as pa

        if self._file is None:
            yield from map(_sound, pa.ipc.open_stream(pa.PythonFile(self._stream, mode="r")))
            return
        head = self._file.read(len(ARROW_MAGIC))
        self._file.seek(0)
        if head.startswith(ARROW_MAGIC):
            reader = pa.ipc.open_file(pa.PythonFile(self._file, mode="r"))
            for index in range(reader.num_record_batches):
                yield _sound(reader.get_batch(index))
                self._share = (index + 1) / reader.num_record_batches
            return
        yield from self._parquet_batches()

    def _parquet_batches(self) -> Iterator["pa.RecordBatch"]:
        import pyarrow.parquet as pq

        # Read page by page, since a row group may be as large as the file.
        table = pq.ParquetFile(self._file, buffer_size=PAGE_BYTES, pre_buffer=False, page_checksum_verification=True)
        total, rows = max(table.metadata.num_rows, 1), 0
        for batch in table.iter_batches(batch_size=ROWS_OF_A_BATCH, use_threads=False):
            rows += batch.num_rows
            yield batch
            self._share = rows / total

    def _pieces(self, batch: "pa.RecordBatch") -> Iterator[Piece]:
        import pyarrow as pa

        if twice := [name for name in batch.schema.names if batch.schema.names.count(name) > 1]:
            raise DataError(f"{self._name} has two columns named {twice[0]!r}: rename one of them.")
        rows = max(1, batch.num_rows * BLOCK_BYTES // max(batch.nbytes, 1))
        for start in range(0, batch.num_rows, rows):
            part = batch.slice(start, rows)
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, part.schema) as writer:
                writer.write_batch(part)
            content = sink.getvalue()
            yield Piece(self._number, None, len(content), content, TableCoding(self._name))
            self._number += part.num_rows


def _sound(batch: "pa.RecordBatch") -> "pa.RecordBatch":
    """Return a validated Arrow batch: Arrow has no checksums, and a damaged offset would point outside its memory.

    Invalid UTF-8 in a column of strings, whose offsets are validated first, is not damage: its row is quarantined when
    it is read. Inside lists and structs, invalid UTF-8 may hide a damaged offset and is refused.

    Raises:
        pyarrow.ArrowInvalid: if the batch is damaged.
    """
    import pyarrow as pa

    batch.validate()
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
            if not is_text or "UTF8" not in str(error):
                raise
    return batch


def _row(table: "pa.Table") -> Any:
    """Return the object of a row, or the reason why it cannot be read."""
    import pyarrow as pa

    try:
        return rows_of(table)[0]
    except UnicodeDecodeError:
        return RefusedLine("invalid_utf8", "a string in the row is not UTF-8")
    except KeyError as error:
        return RefusedLine("duplicate_key", f"{_brief(error)} occurs twice in one object")
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return RefusedLine("wrong_type", f"a value cannot be read: {_brief(error)}")


def rows_of(table: "pa.Table") -> list[dict[str, Any]]:
    """Return the rows of a table as objects, by the rules of this module."""
    rows: list[dict[str, Any]] = []
    for batch in table.to_batches():
        rows += _objects(batch.schema.names, batch.columns, batch.num_rows)
    return rows


def _objects(names: list[str], columns: list["pa.Array"], count: int) -> list[dict[str, Any]]:
    """Return objects from columns, without null values."""
    if not columns:
        return [{} for _ in range(count)]
    values = [_values(column) for column in columns]
    if any(None in column for column in values):
        return [
            {name: value for name, value in zip(names, row, strict=True) if value is not None}
            for row in zip(*values, strict=True)
        ]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _values(column: "pa.Array") -> list[Any]:
    """Return the values of a column; lists and structs column by column, which is several times faster."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        return _values(column.cast(kind.value_type))
    if pa.types.is_struct(kind):
        rows: list[Any] = _objects([field.name for field in kind], column.flatten(), len(column))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        ends = column.offsets.to_pylist()
        items = _values(column.values.slice(ends[0], ends[-1] - ends[0]))
        rows = [items[start - ends[0] : end - ends[0]] for start, end in pairwise(ends)]
    else:
        convert = _converter(kind)
        found = column.to_pylist(maps_as_pydicts="strict")
        return found if convert is None else [None if value is None else convert(value) for value in found]
    if column.null_count:
        valid = column.is_valid().to_pylist()
        return [row if is_valid else None for row, is_valid in zip(rows, valid, strict=True)]
    return rows


@cache
def _converter(kind: "pa.DataType") -> Convert | None:
    """Return the function that converts a non-null value of a type to JSON, None if it needs no conversion."""
    import pyarrow as pa

    types = pa.types
    if types.is_struct(kind):
        return _struct({field.name: _converter(field.type) for field in kind})
    if types.is_map(kind):
        return _mapping(_converter(kind.item_type))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or _is_view(kind):
        return _listing(_converter(kind.value_type))
    if types.is_dictionary(kind):
        return _converter(kind.value_type)
    if types.is_float16(kind) or types.is_float32(kind):
        return _short_float
    if types.is_floating(kind):
        return _float
    is_native = types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind) or types.is_boolean(kind)
    return None if is_native or types.is_null(kind) or types.is_string_view(kind) else _plain


def _is_view(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _struct(converters: dict[str, Convert | None]) -> Convert:
    def convert(value: dict[str, Any]) -> dict[str, Any]:
        made = {}
        for name, inner in value.items():
            if inner is not None:
                change = converters[name]
                made[name] = inner if change is None else change(inner)
        return made

    return convert


def _listing(change: Convert | None) -> Convert | None:
    if change is None:
        return None
    return lambda values: [None if value is None else change(value) for value in values]


def _mapping(change: Convert | None) -> Convert:
    def convert(value: dict[Any, Any]) -> dict[str, Any]:
        return {
            str(key): inner if change is None else change(inner) for key, inner in value.items() if inner is not None
        }

    return convert


def _float(value: float) -> float | str | None:
    """Return a float as JSON: NaN as null, and infinities, which JSON lacks, as text."""
    if value != value:
        return None
    return value if value not in (float("inf"), float("-inf")) else str(value)


def _short_float(value: float) -> float | str | None:
    """Return the shortest decimal that equals the value in float32, without the extra digits of its float64 form."""
    import numpy as np

    return _float(float(str(np.float32(value))))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return str(value)
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"bytes": len(value)}
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value if isinstance(value, str | int | bool | dict | list) else str(value)


def _brief(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:160]
