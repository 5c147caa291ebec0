"""Sources cut into blocks of whole lines, each with the number and the place of its first line.

The cuts depend on the content alone, so that work on blocks gives the same bytes with any number of processes. A file
is read once and hashed on the way. Lines end at ``\\n`` alone: U+2028 and the like are part of the text.
"""

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from snaketune.common.errors import DataError
from snaketune.data.compression import decompressed
from snaketune.data.parsing import LONGEST_LINE
from snaketune.data.policy import Reading
from snaketune.data.sources import HEAD_BYTES, HashedFile, changed, open_source, refuse_foreign, refuse_misnamed

# Blocks of this size stay in the processor's cache.
BLOCK_BYTES = 1 << 18
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive lines of a source.

    Attributes:
        source: index of the source; ``reading`` what its records are read as, None as long as that is not decided.
        path: what the user calls the source; ``place`` the file to read.
        line: number of the first line, from 1.
        offset: byte offset of the first line in the (decompressed) file.
        size: bytes of the lines, with their ends.
        consumed: bytes of the file as it lies on disk that were read for this block.
        content: the lines, or None where they are to be read from ``place``.
    """

    source: int
    reading: Reading | None
    path: str
    place: str
    line: int
    offset: int
    size: int
    consumed: int
    content: bytes | None

    def lines(self) -> list[bytes]:
        """Return the lines without their ends; the last item is empty unless the file lacks its last line end."""
        content = self.content
        if content is None:
            with open(self.place, "rb", buffering=0) as file:
                file.seek(self.offset)
                content = file.read(self.size)
        return content.split(b"\n")

    def by_reference(self) -> "Block":
        """Return the block without its content, for another process of this machine to read it."""
        return replace(self, content=None)


def blocks_of(source: int, path: str, place: str | Path, digest: str) -> Iterator[Block]:
    """Yield the blocks of a source; a byte order mark at its start is left out.

    A block is about 256 KiB long. Of a line over 16 MiB, which is alone in its block, only the beginning is given.

    Args:
        path: what the user calls the source; its suffix says how it is compressed.
        place: where the file is.
        digest: XXH3-128 of the file as it lies on disk, checked at the end.

    Raises:
        DataError: if the file cannot be read, is of another kind, is damaged (with the last line that was read) or
            changed since it was staged.
    """
    refuse_misnamed(_head(place), path)
    with closing(HashedFile(open_source(place))) as raw:
        cutter = _Cutter(decompressed(raw, path), path)
        taken = 0
        for line, offset, size, content in cutter.cut():
            yield Block(source, None, path, str(place), line, offset, size, raw.size - taken, content)
            taken = raw.size
        if raw.hexdigest() != digest:
            raise changed(path)


def is_plain(path: str) -> bool:
    """Tell whether the lines of a source can be read at their offsets, because it is not compressed."""
    return not path.endswith((".gz", ".zst"))


def _head(place: str | Path) -> bytes:
    with closing(open_source(place)) as file:
        return file.read(HEAD_BYTES)


class _Cutter:
    """Cuts a stream behind the last line end in every 256 KiB."""

    def __init__(self, stream: io.RawIOBase, path: str):
        self._stream, self._path = stream, path
        self._buffer = bytearray(BLOCK_BYTES)
        self._line, self._offset = 1, 0

    def cut(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield line number, offset, size and content."""
        rest, piece = b"", self._start()
        while piece:
            end = piece.rfind(b"\n") + 1
            if end:
                yield self._block(rest + piece[:end])
                rest = piece[end:]
            else:
                rest += piece
            if len(rest) > LONGEST_LINE:
                beginning, skipped, rest = self._skip_line(rest)
                yield self._block(beginning, skipped)
            piece = self._read(rest)
        if rest:
            yield self._block(rest)

    def _start(self) -> bytes:
        first = self._read(b"")
        if not is_plain(self._path):
            refuse_foreign(first[:HEAD_BYTES], self._path, inside=True)
        if first.startswith(BYTE_ORDER_MARK):
            self._offset = len(BYTE_ORDER_MARK)
            return first[len(BYTE_ORDER_MARK) :]
        return first

    def _block(self, content: bytes, skipped: int = 0) -> tuple[int, int, int, bytes]:
        block = (self._line, self._offset, len(content), content)
        self._line += content.count(b"\n") + (1 if skipped else 0)
        self._offset += len(content) + skipped
        return block

    def _skip_line(self, rest: bytes) -> tuple[bytes, int, bytes]:
        """Return the beginning of an overlong line, the number of bytes passed over and what follows the line."""
        beginning, skipped = rest[: LONGEST_LINE + 1], len(rest) - LONGEST_LINE - 1
        while piece := self._read(b""):
            if end := piece.find(b"\n") + 1:
                return beginning, skipped + end, piece[end:]
            skipped += len(piece)
        return beginning, skipped, b""

    def _read(self, before: bytes) -> bytes:
        """Return the next bytes, as many as fit; ``before`` was read and not yet given to anybody."""
        filled, view = 0, memoryview(self._buffer)
        try:
            while filled < len(view) and (size := self._stream.readinto(view[filled:])):  # type: ignore[attr-defined]
                filled += size
        except EOFError as error:
            number = self._reached(before, view[:filled])
            raise DataError(
                f"{self._path}: the compressed data are damaged or cut short after line {number} ({error}): fetch or"
                " compress it again."
            ) from None
        except OSError as error:
            number = self._reached(before, view[:filled])
            raise DataError(
                f"{self._path}: reading stopped after line {number} ({error.strerror or error}): check the disk."
            ) from None
        return bytes(view[:filled])

    def _reached(self, before: bytes, read: Any) -> int:
        return self._line - 1 + (before + bytes(read)).count(b"\n")
