"""Physical lines of a source with their number and byte offset, in bounded memory and with its content checked."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from snaketune.common.errors import DataError

LONGEST_LINE_BYTES = 16 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A physical line without its line end; ``cut`` tells that it is longer than the limit and only its start."""

    number: int
    offset: int
    content: bytes
    cut: bool = False


class _Digesting(io.RawIOBase):
    """A file that digests what is read through it."""

    def __init__(self, path: Path, progress: Callable[[int], object]):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed in close()
        self._state = xxhash.xxh3_128()
        self._progress = progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        read = self._file.readinto(buffer) or 0
        self._state.update(memoryview(buffer)[:read])
        self._progress(read)
        return read

    def close(self) -> None:
        self._file.close()
        super().close()

    def hexdigest(self) -> str:
        return self._state.hexdigest()


def read_lines(path: Path, name: str, digest: str, progress: Callable[[int], object]) -> Iterator[Line]:
    """Yield the lines of a plain or gzipped file; offsets count decompressed bytes.

    Args:
        path: the file to read.
        name: what errors call it.
        digest: expected digest of the file; a difference is an error after the last line.
        progress: called with the number of bytes read from disk.

    Raises:
        DataError: if a gzip stream is damaged, or the content is not the expected one.
    """
    raw = _Digesting(path, progress)
    number = 0
    with raw, io.BufferedReader(raw, 1 << 20) as buffered:
        stream = gzip.GzipFile(fileobj=buffered) if path.name.endswith(".gz") else buffered
        try:
            for line in _split(stream):
                number = line.number
                yield line
            while buffered.read(1 << 20):
                pass
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{name}, after line {number}: the gzip stream is damaged ({error}): copy it again."
            ) from None
        if raw.hexdigest() != digest:
            raise DataError(f"{name} changed while the workflow runs: run the same command again.")


def _split(stream) -> Iterator[Line]:
    offset = number = 0
    while content := stream.readline(LONGEST_LINE_BYTES):
        number += 1
        size, cut = len(content), False
        if not content.endswith(b"\n") and size == LONGEST_LINE_BYTES:
            rest = _skip_line(stream)
            size, cut = size + rest, rest > 0
        if number == 1 and content.startswith(_BOM):
            content = content[len(_BOM) :]
        yield Line(number, offset, content.rstrip(b"\r\n"), cut)
        offset += size


def _skip_line(stream) -> int:
    skipped = 0
    while piece := stream.readline(1 << 20):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped
