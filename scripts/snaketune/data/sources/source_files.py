"""Source files on disk: opened, hashed while they are read, and refused by magic bytes if they are not supported."""

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from snaketune.core.errors import DataError

MAGIC_BYTES = 512
FOREIGN = {
    b"7z\xbc\xaf": "is a 7z archive: unpack it and name the file in it",
    b"Rar!": "is a RAR archive: unpack it and name the file in it",
    b"SQLite format 3": "is a SQLite database: write the table you want as CSV, `sqlite3 -csv -header FILE 'SELECT …'`",
    b"%PDF": "is a PDF document: records are read from JSON, CSV, Parquet and Arrow",
    b"\x89HDF": "is an HDF5 file: write its table as Parquet or CSV",
    b"\x93NUMPY": "is a NumPy array: write its records as JSON lines",
    b"GGUF": "is a GGUF model: data.sources takes records",
    b"\xd0\xcf\x11\xe0": "is an Office document: save its table as CSV and give that file",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file: fetch it with `git lfs pull`",
    b"<!DOCTYPE": "is a web page, perhaps a login page: download the file itself",
    b"<!doctype": "is a web page, perhaps a login page: download the file itself",
    b"<html": "is a web page, perhaps a login page: download the file itself",
    b"ORC": "is an ORC file: write it as Parquet",
    b"Obj\x01": "is an Avro file: write it as Parquet or JSON lines",
}


def _ignore(size: int) -> None:
    """Ignore progress."""


def open_source(path: str | Path) -> io.FileIO:
    """Open a raw source file, unbuffered.

    Raises:
        DataError: if it does not exist, is not a regular file, cannot be read or is empty.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is {kind_of_path(status)}: give regular files with records in data.sources.")
        file = open(path, "rb", buffering=0)  # noqa: SIM115 - the caller closes it
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise DataError(f"{path} {reason}: check the path in data.sources and its permissions.") from None
    if not status.st_size:
        file.close()
        raise empty(str(path))
    return file


def kind_of_path(status: os.stat_result) -> str:
    """Return a description of a path that is not a regular file."""
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    if stat.S_ISDIR(status.st_mode):
        return "a folder"
    return f"not a regular file ({kinds.get(stat.S_IFMT(status.st_mode), 'something else')})"


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
        """Close the underlying file as well."""
        self._file.close()
        super().close()


def empty(name: str) -> DataError:
    """Return the error for an empty source."""
    return DataError(f"{name} is empty (0 bytes): remove it from data.sources or fill it.")


def changed(name: str) -> DataError:
    """Return the error for a source whose content has changed since the workflow started."""
    return DataError(
        f"{name} changed while the workflow ran: wait until it is completely written, then run the same command again."
    )


def refuse_foreign(head: bytes, name: str, inside: bool = False) -> None:
    """Refuse files that are neither UTF-8 text nor a supported table.

    Args:
        head: the first 512 bytes, decompressed if ``inside``.
        name: the user's name of the file.
        inside: whether the file is packed inside another one.

    Raises:
        DataError: with the kind of file and what to do.
    """
    subject = f"the content of {name}" if inside else name
    for magic, sentence in FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{subject} {sentence}.")
    # UTF-16 without a byte order mark: every other byte of a bracket, a quote and so on is zero.
    if len(head) > 3 and (head[:4:2] == b"\0\0") != (head[1:4:2] == b"\0\0"):
        order = "BE" if head[:4:2] == b"\0\0" else "LE"
        raise DataError(
            f"{subject} is UTF-16 text without a byte order mark: convert it with `iconv -f UTF-16{order} -t UTF-8`."
        )
