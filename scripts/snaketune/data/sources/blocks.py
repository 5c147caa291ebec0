r"""Sources cut into blocks of whole records, each with the number and the offset of its first record.

The cuts depend on the content alone, so that the output has the same bytes with any number of processes. A file is read
once and hashed while it is read. Lines end only at ``\n``: U+2028 and similar characters are part of the text.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snaketune.core.errors import DataError
from snaketune.data.records.parsing import BYTE_ORDER_MARK, LONGEST_LINE
from snaketune.data.records.reading_policy import SourceReading
from snaketune.data.sources.containers import (
    ARRAY,
    LINES,
    MEMBER,
    OBJECTS,
    ROWS_CONTAINER,
    TABLE_CONTAINER,
    Container,
    recognise,
)
from snaketune.data.sources.contents import Content, opened
from snaketune.data.sources.delimited import RowCutter
from snaketune.data.sources.pieces import BLOCK_BYTES, Chunk, Coding, Piece
from snaketune.data.sources.tables import TableCutter

if TYPE_CHECKING:
    from snaketune.data.sources.json_text import Items

PACKED_SUFFIXES = (".gz", ".zst", ".xz", ".bz2", ".zip", ".tgz", ".parquet")


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive records of a source, by default lines of JSON.

    Attributes:
        source: index of the source; ``reading`` how its records are read, None until that is decided.
        path: the user's name of the source; ``place`` the file to read.
        line: number of the first record, from 1.
        offset: byte offset of the first line in the (decompressed) file; None if records have no offsets.
        size: bytes of the lines, including their ends.
        consumed: bytes of the file on disk that were read for this block.
        content: the lines, or None if they have to be read from ``place``.
        unit: what a record is called: line, item or row.
        coding: how the content is decoded into records; None for lines of JSON.
        is_plain: whether the lines are at ``offset`` in the file itself, uncompressed.
    """

    source: int
    reading: SourceReading | None
    path: str
    place: str
    line: int
    offset: int | None
    size: int
    consumed: int
    content: bytes | None
    unit: str = "line"
    coding: Coding | None = None
    is_plain: bool = False

    def items(self) -> list[Any]:
        """Return the records: lines without their ends, or the result of :meth:`Coding.items`.

        The last item of lines is empty unless the file lacks its last line end.
        """
        return self.lines() if self.coding is None else self.coding.items(self.content or b"", self.line)

    def lines(self) -> list[bytes]:
        """Return the lines without their ends; the last item is empty unless the file lacks its last line end."""
        content = self.content
        if content is None:
            with open(self.place, "rb", buffering=0) as file:
                file.seek(self.offset or 0)
                content = file.read(self.size)
        return content.split(b"\n")

    def by_reference(self) -> "Block":
        """Return the block without its content, so that another process reads it instead of receiving it by a pipe."""
        return replace(self, content=None)


class SourceBlocks:
    """The blocks of a source.

    A block has about 256 KiB. A line over 16 MiB is alone in its block, which contains only its beginning. A byte order
    mark at the start is skipped.

    Args:
        source: index of the source.
        path: the user's name of the source.
        place: path of the file.
        digest: XXH3-128 of the file on disk, checked at the end; empty if only the beginning is read.

    Attributes:
        container: the recognised container, from the first block on.
        beside: names of members besides the records, known at the end.
    """

    def __init__(self, source: int, path: str, place: str | Path, digest: str):
        self._source, self._path, self._place, self._digest = source, path, place, digest
        self.container = Container()
        self.beside: list[str] = []

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks.

        Raises:
            DataError: if the file cannot be read, is not supported, is damaged (with the last record that was read) or
                has changed since it was staged.
        """
        reached = 0
        try:
            with opened(self._path, self._place, self._digest) as content:
                self.container = recognise(content)
                # Progress counts bytes on disk, of which decompression takes some ahead: differences of it add up to
                # the file.
                taken, size_of = 0, self._progress(content)
                for piece in self._pieces(content):
                    reached = piece.number - 1
                    yield self._block(piece, size_of() - taken, content)
                    taken = size_of()
                # Only now: the digest covers the whole file, also what the decompressor left unread behind its last
                # frame.
                content.finish(self._digest)
        except EOFError as error:
            raise _damaged(self._path, "", reached, error) from None

    def _block(self, piece: Piece, consumed: int, content: Content) -> Block:
        is_plain = self.container.kind == LINES and not content.layers
        place = (piece.number, piece.offset, piece.size, consumed, piece.content)
        unit = self.container.unit
        return Block(self._source, None, self._path, str(self._place), *place, unit, piece.coding, is_plain)

    def _progress(self, content: Content) -> Callable[[], int]:
        if self.container.kind != TABLE_CONTAINER or content.file is None:
            return content.reached
        self._table = TableCutter(content.file, content.stream, self._path)
        return lambda: self._table.reached(content.raw.size)

    def _pieces(self, content: Content) -> Iterator[Piece]:
        kind = self.container.kind
        if kind == ROWS_CONTAINER and self.container.coding:
            content.stream.read(self.container.skipped)
            yield from RowCutter(content.stream, self.container.coding, self.container.skipped).cut()
        elif kind == TABLE_CONTAINER:
            table = self._table if content.file else TableCutter(None, content.stream, self._path)
            yield from table.cut()
        elif kind == LINES:
            yield from LineCutter(content.stream, self._path, self.container.unit).cut()
        else:
            items = self._items(content)
            yield from LineCutter(items, self._path, self.container.unit).cut()
            self.beside = items.beside()

    def _items(self, content: Content) -> "Items":
        # Imported here: most files are JSON lines, which are read without numpy.
        from snaketune.data.sources.json_text import ArrayItems, ListItems, Objects

        if self.container.kind == MEMBER:
            return ListItems(content.stream, self._path, self.container.member)
        found = {ARRAY: ArrayItems, OBJECTS: Objects}[self.container.kind]
        return found(content.stream, self._path)


def blocks_of(source: int, path: str, place: str | Path, digest: str) -> Iterator[Block]:
    """Yield the blocks of a source, see :class:`SourceBlocks`."""
    return iter(SourceBlocks(source, path, place, digest))


def is_compressed_name(path: str) -> bool:
    """Return whether a source, judging by its name, is likely to be much larger once unpacked."""
    return path.lower().endswith(PACKED_SUFFIXES)


def _damaged(path: str, unit: str, number: int, error: EOFError) -> DataError:
    reached = f" after {unit or 'record'} {number}"
    return DataError(
        f"{path}: the compressed data are damaged or truncated{reached} ({error}): download or compress it again."
    )


class LineCutter:
    """Cuts a stream after the last line end in every 256 KiB.

    Args:
        stream: the bytes, from ``start.offset`` on.
        path: the user's name of the source.
        unit: what a line is called.
        start: where to begin; None for the beginning.

    Attributes:
        line: number of the line after the last piece; ``offset`` is its byte offset.
        position: how far the stream was read, as a byte offset.
    """

    def __init__(self, stream: io.RawIOBase, path: str, unit: str = "line", start: Chunk | None = None):
        self._stream, self._path, self._unit, self._start = stream, path, unit, start
        self._buffer = bytearray(BLOCK_BYTES)
        self.line, self.offset = (start.line, start.offset) if start else (1, 0)
        self.position = self.offset

    def cut(self) -> Iterator[Piece]:
        """Yield pieces of whole lines."""
        if self._start:
            # A chunk starts in the middle of a block of the whole file: the rest of that block first, then the same
            # blocks.
            rest = self._read(b"", self._start.position - self.offset)
            piece = self._read(rest)
        else:
            rest, piece = b"", self._beginning()
        while piece:
            end = piece.rfind(b"\n") + 1
            if end:
                yield self._block(rest + piece[:end])
                rest = piece[end:]
            else:
                rest += piece
            # A line without an end must not fill the memory: its beginning is kept for the quarantine, the rest is
            # skipped.
            if len(rest) > LONGEST_LINE:
                beginning, skipped, rest = self._skip_line(rest)
                yield self._block(beginning, skipped)
            piece = self._read(rest)
        if rest:
            yield self._block(rest)

    def _beginning(self) -> bytes:
        first = self._read(b"")
        if first.startswith(BYTE_ORDER_MARK):
            self.offset = len(BYTE_ORDER_MARK)
            return first[len(BYTE_ORDER_MARK) :]
        return first

    def _block(self, content: bytes, skipped: int = 0) -> Piece:
        block = Piece(self.line, self.offset, len(content), content)
        self.line += content.count(b"\n") + (1 if skipped else 0)
        self.offset += len(content) + skipped
        return block

    def _skip_line(self, rest: bytes) -> tuple[bytes, int, bytes]:
        """Return the beginning of an overlong line, the number of skipped bytes and the bytes after the line."""
        beginning, skipped = rest[: LONGEST_LINE + 1], len(rest) - LONGEST_LINE - 1
        while piece := self._read(b""):
            if end := piece.find(b"\n") + 1:
                return beginning, skipped + end, piece[end:]
            skipped += len(piece)
        return beginning, skipped, b""

    def _read(self, before: bytes, size: int | None = None) -> bytes:
        """Return the next ``size`` bytes, by default a block; errors also count the lines of ``before``."""
        # One buffer for all blocks. Streams may return less than requested, so it is filled in a loop: blocks have to
        # be cut at the same bytes however a decompressor delivers them.
        buffer = self._buffer if size is None else bytearray(size)
        filled, view = 0, memoryview(buffer)
        try:
            while filled < len(view) and (taken := self._stream.readinto(view[filled:])):
                filled += taken
        except EOFError as error:
            raise _damaged(self._path, self._unit, self._reached(before, view[:filled]), error) from None
        except OSError as error:
            number = self._reached(before, view[:filled])
            reason = error.strerror or error
            raise DataError(
                f"{self._path}: reading stopped after {self._unit} {number} ({reason}): check the disk."
            ) from None
        self.position += filled
        return bytes(view[:filled])

    def _reached(self, before: bytes, read: Any) -> int:
        return self.line - 1 + (before + bytes(read)).count(b"\n")
