"""Source files as they lie on disk: opened, told apart by their first bytes, hashed on the way."""

import io
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from snaketune.common.errors import DataError

GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
TAR_MAGIC, TAR_PLACE = b"ustar", 257
HEAD_BYTES = 512
UTF_16 = "is UTF-16 text: convert it with `iconv -f UTF-16 -t UTF-8`"
FOREIGN = {
    GZIP_MAGIC: "is gzip data: rename it so that it ends in .jsonl.gz",
    ZSTD_MAGIC: "is Zstandard data: rename it so that it ends in .jsonl.zst",
    b"BZh": "is bzip2 data: decompress it with `bunzip2`",
    b"\xfd7zXZ": "is xz data: decompress it with `unxz`",
    b"PK\x03\x04": "is a zip archive: unpack it and name the files in it",
    b"PK\x05\x06": "is a zip archive: unpack it and name the files in it",
    b"7z\xbc\xaf": "is a 7z archive: unpack it and name the files in it",
    b"PAR1": "is a Parquet file: write it as JSON lines",
    b"ARROW1": "is an Arrow file: write it as JSON lines",
    b"SQLite format 3": "is a SQLite database: write its records as JSON lines",
    b"\xff\xfe\x00\x00": "is UTF-32 text: convert it with `iconv -f UTF-32 -t UTF-8`",
    b"\xff\xfe": UTF_16,
    b"\xfe\xff": UTF_16,
}


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
        raise empty(str(path))
    return file


class HashedFile(io.RawIOBase):
    """A raw file that hashes (XXH3-128) and counts the bytes as they are read."""

    def __init__(self, file: io.FileIO, advance: Callable[[int], object] = _ignore):
        self._file = file
        self._advance = advance
        self._state = xxhash.xxh3_128()
        self.size = 0

    def readable(self) -> bool:
        """Return True: this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` and return the number of bytes, 0 at the end."""
        view = memoryview(buffer)
        size = self._file.readinto(view)
        self._state.update(view[:size])
        self.size += size
        self._advance(size)
        return size

    def hexdigest(self) -> str:
        """Return the digest of everything read so far, 32 hex digits."""
        return self._state.hexdigest()

    def close(self) -> None:
        """Close the file below as well."""
        self._file.close()
        super().close()


def empty(name: str) -> DataError:
    """Return the error for a source without a byte."""
    return DataError(f"{name} is empty (0 bytes): remove it from data.sources or fill it.")


def changed(name: str) -> DataError:
    """Return the error for a source whose content is not the one that the workflow saw when it started."""
    return DataError(
        f"{name} changed while the workflow ran: let whatever writes it finish, then run the same command again."
    )


def refuse_foreign(head: bytes, name: str, inside: bool = False) -> None:
    """Refuse what is not lines of UTF-8 text.

    Args:
        head: the first 512 bytes, decompressed when ``inside``.
        name: what the user calls the file.

    Raises:
        DataError: naming the kind of file and the cure.
    """
    subject = f"the content of {name}" if inside else name
    if head[TAR_PLACE:].startswith(TAR_MAGIC):
        raise DataError(f"{subject} is a tar archive: unpack it and name the files in it.")
    if inside and head.startswith((GZIP_MAGIC, ZSTD_MAGIC)):
        raise DataError(f"{subject} is compressed a second time: decompress it once.")
    for magic, sentence in FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{subject} {sentence}.")
    # UTF-16 without a byte order mark: every other byte of a bracket, a quote and so on is zero.
    if len(head) > 3 and (head[:4:2] == b"\0\0") != (head[1:4:2] == b"\0\0"):
        raise DataError(f"{subject} {UTF_16}.")


def refuse_misnamed(head: bytes, name: str) -> None:
    """Refuse a file whose first bytes are not what its name says.

    Raises:
        DataError: naming the kind of file and the cure.
    """
    for suffix, magic, kind, tool in ((".gz", GZIP_MAGIC, "gzip", "gzip"), (".zst", ZSTD_MAGIC, "Zstandard", "zstd")):
        if name.endswith(suffix):
            skippable = suffix == ".zst" and head[1:4] == b"\x2a\x4d\x18"
            if not head.startswith(magic) and not skippable:
                raise DataError(
                    f"{name} is named {suffix} but is no {kind} data: rename it, or compress it with `{tool}`."
                )
            return
    refuse_foreign(head, name)
