"""Source files as numbered lines of bytes: plain or gzip, streamed, hashed on the way, never held."""

import io
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import xxhash

from snaketune.common.errors import DataError

LONGEST_LINE = 16 << 20
BLOCK_BYTES = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP_MAGIC = b"\x1f\x8b"
FOREIGN = {
    GZIP_MAGIC: "is gzip data: rename it so that it ends in .jsonl.gz",
    b"\x28\xb5\x2f\xfd": "is Zstandard data: decompress it with `zstd -d`",
    b"PK\x03\x04": "is a zip archive: unpack it",
    b"PAR1": "is a Parquet file: write it as JSON lines",
    b"\xff\xfe": "is UTF-16 text: convert it with `iconv -f UTF-16 -t UTF-8`",
    b"\xfe\xff": "is UTF-16 text: convert it with `iconv -f UTF-16 -t UTF-8`",
}

NumberedLine = tuple[int, int, bytes]


def _ignore(size: int) -> None:
    """Nobody watches the progress."""


def open_source(path: str | Path) -> io.FileIO:
    """Open a raw source file, unbuffered.

    Raises:
        DataError: if it does not exist, is no regular file, cannot be read or is empty.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise DataError(f"{path} is {kind}: name files of JSON lines in data.sources.")
        file = open(path, "rb", buffering=0)  # noqa: SIM115 - the caller closes it
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise DataError(f"{path} {reason}: check the path in data.sources and its permissions.") from None
    if not status.st_size:
        file.close()
        raise DataError(f"{path} is empty (0 bytes): remove it from data.sources or fill it.")
    return file


class HashedFile(io.RawIOBase):
    """A raw file that hashes (XXH3-128) and counts the bytes as they are read."""

    def __init__(self, file: io.FileIO, advance: Callable[[int], object] = _ignore):
        self._file = file
        self._advance = advance
        self._state = xxhash.xxh3_128()

    def readable(self) -> bool:
        """Return True: this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` and return the number of bytes, 0 at the end."""
        view = memoryview(buffer)
        size = self._file.readinto(view)
        self._state.update(view[:size])
        self._advance(size)
        return size

    def hexdigest(self) -> str:
        """Return the digest of everything read so far, 32 hex digits."""
        return self._state.hexdigest()

    def close(self) -> None:
        """Close the file below as well."""
        self._file.close()
        super().close()


class Gunzipped(io.RawIOBase):
    """The content of a gzip file of one or more members.

    Unlike :class:`gzip.GzipFile` it hands out everything before a damaged place, so that the line reached is
    known. Memory is bounded by the caller's buffer, whatever the data expand to.

    Raises:
        EOFError: while reading, if the file ends inside a member.
        zlib.error: while reading, if the data or their checksum are damaged.
    """

    def __init__(self, raw: io.RawIOBase):
        self._raw = raw
        self._member = _gzip_member()

    def readable(self) -> bool:
        """Return True: this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` with decompressed bytes and return their number, 0 at the end."""
        view = memoryview(buffer)
        while True:
            if self._member.eof:
                following = (self._member.unused_data or self._raw.read(BLOCK_BYTES) or b"").lstrip(b"\0")
                if not following:
                    return 0
                self._member = _gzip_member()
            else:
                following = self._member.unconsumed_tail or self._raw.read(BLOCK_BYTES) or b""
            content = self._member.decompress(following, len(view))
            if content:
                view[: len(content)] = content
                return len(content)
            if not following and not self._member.eof:
                raise EOFError("the file ends before the end-of-stream marker")


def _gzip_member():
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


@contextmanager
def reading_lines(
    path: str | Path, name: str, digest: str, advance: Callable[[int], object] = _ignore
) -> Iterator[Iterator[NumberedLine]]:
    """Give the lines of the source at ``path`` and check, once they were read, that the content is the expected one.

    Args:
        path: where the file is; ``name`` is what the user calls it.
        digest: XXH3-128 of the file as it lies on disk.
        advance: called with the number of bytes read, for a progress bar.

    Raises:
        DataError: if the file cannot be read, is of another kind, is damaged or changed since it was staged.
    """
    with closing(HashedFile(open_source(path), advance)) as raw:
        _refuse_foreign(path, name)
        content: io.RawIOBase = Gunzipped(raw) if name.endswith(".gz") else raw
        yield numbered_lines(io.BufferedReader(content, BLOCK_BYTES), name)
        if raw.hexdigest() != digest:
            raise changed(name)


def changed(name: str) -> DataError:
    """Return the error for a source whose content is not the one that the workflow saw when it started."""
    return DataError(
        f"{name} changed while the workflow ran: let whatever writes it finish, then run the same command again."
    )


def _refuse_foreign(path: str | Path, name: str) -> None:
    with open(path, "rb") as file:
        head = file.read(4)
    if name.endswith(".gz"):
        if not head.startswith(GZIP_MAGIC):
            raise DataError(f"{name} is named .gz but is no gzip data: rename it, or compress it with `gzip`.")
        return
    for magic, sentence in FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{name} {sentence}.")


def numbered_lines(file: io.BufferedReader, name: str) -> Iterator[NumberedLine]:
    """Yield line number (from 1), byte offset in the (decompressed) file and content of each line that is not blank.

    A byte order mark at the start of the file is left out. Of a line over 16 MiB only the beginning is given, for
    which :func:`is_cut` is true. Lines end at ``\\n`` alone: U+2028 and the like are part of the text.

    Raises:
        DataError: if the file is damaged, with the number of the last line that was read.
    """
    number = offset = 0
    try:
        while content := file.readline(LONGEST_LINE + 1):
            size = len(content)
            cut = size > LONGEST_LINE and is_cut(content)
            if cut:
                size += _skip_line(file)
            number += 1
            if number == 1 and content.startswith(BYTE_ORDER_MARK):
                content = content[len(BYTE_ORDER_MARK) :]
                offset, size = len(BYTE_ORDER_MARK), size - len(BYTE_ORDER_MARK)
            if content and (cut or not content.isspace()):
                yield number, offset, content
            offset += size
    except (EOFError, zlib.error) as error:
        raise DataError(
            f"{name}: the gzip data are damaged or cut short after line {number} ({error}): fetch or compress it again."
        ) from None
    except OSError as error:
        raise DataError(
            f"{name}: reading stopped after line {number} ({error.strerror or error}): check the disk."
        ) from None


def is_cut(content: bytes) -> bool:
    """Tell whether ``content`` is the beginning of a line longer than 16 MiB."""
    return len(content) > LONGEST_LINE and content[-1:] != b"\n"


def _skip_line(file: io.BufferedReader) -> int:
    """Read to the end of the line and return the number of bytes passed over."""
    skipped = 0
    while piece := file.readline(BLOCK_BYTES):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped
