"""Copies of large files: shared by the filesystem where it can, hashed on the way, resumed after an interruption."""

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import xxhash

from snaketune.common.atomic import sync_directory
from snaketune.common.digests import CHUNK_BYTES, file_digest
from snaketune.common.errors import DiskFullError
from snaketune.common.room import FULL
from snaketune.data.sources import changed, open_source

# ioctl request of Linux: let a new file share the blocks of another one until either is changed.
FICLONE = 0x40049409


@dataclass(frozen=True, slots=True)
class Copied:
    """How a copy was made.

    Attributes:
        how: ``reflink`` or ``copy``.
        resumed: bytes that an interrupted attempt had left, in bytes.
        read: rate at which the original was read, in bytes per second; None where nothing was.
    """

    how: str
    resumed: int
    read: float | None


def copy_verified(
    path: str | Path, target: Path, digest: str, advance: Callable[[int], object], share: bool = True
) -> Copied:
    """Copy a file to ``target``, which appears there only with the expected content; one process at a time.

    What an interruption leaves is kept beside ``target`` and continued; the digest at the end covers it as well.

    Args:
        digest: expected XXH3-128 of the file.
        advance: called with the number of bytes that are done.
        share: whether to try a reflink.

    Raises:
        DataError: if the file cannot be read or has another content.
    """
    partial = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    if share and not partial.exists() and _reflink(path, partial):
        if file_digest(partial) != digest:
            partial.unlink()
            raise changed(str(path))
        done = Copied("reflink", 0, None)
        advance(partial.stat().st_size)
    else:
        done = _copy(path, partial, digest, advance)
    os.replace(partial, target)
    sync_directory(target.parent)
    return done


def _copy(path: str | Path, partial: Path, digest: str, advance: Callable[[int], object]) -> Copied:
    resumed = partial.stat().st_size if partial.exists() else 0
    with open_source(path) as original, open(partial, "ab" if resumed else "wb", buffering=0) as copy:
        try:
            found, rate = _append(original, copy, partial, advance)
            os.fsync(copy.fileno())
        except OSError as error:
            if error.errno in FULL:  # what is left would only keep the disk full
                raise _no_room(partial, original) from None
            raise
    if found == digest:
        return Copied("copy", resumed, rate)
    partial.unlink()
    if not resumed:
        raise changed(str(path))
    # What an interruption left may have been damaged, by a power cut for example: once more from the start.
    advance(-Path(path).stat().st_size)
    return _copy(path, partial, digest, advance)


def _append(original: Any, copy: IO[bytes], partial: Path, advance: Callable[[int], object]) -> tuple[str, float]:
    """Hash what is there, append the rest of the original, and return the digest of all and the rate of reading."""
    state, seconds, size = xxhash.xxh3_128(), 0.0, 0
    with open(partial, "rb", buffering=0) as prefix:
        while content := prefix.read(CHUNK_BYTES):
            state.update(content)
            advance(len(content))
        original.seek(prefix.tell())
    append = _Appender(original, copy)
    while True:
        start = time.perf_counter()
        content = original.read(CHUNK_BYTES)
        seconds += time.perf_counter() - start
        if not content:
            return state.hexdigest(), size / max(seconds, 1e-9)
        state.update(content)
        append(content)
        size += len(content)
        advance(len(content))


def _no_room(partial: Path, original: Any) -> DiskFullError:
    needed, written = os.fstat(original.fileno()).st_size, partial.stat().st_size
    partial.unlink()
    return DiskFullError(
        f"{partial.parent}: the disk is full: the copy needs {needed:,} bytes, of which {written:,} were written and"
        " are removed: free space there, or choose another disk for paths.scratch, then run the same command again."
    )


class _Appender:
    """Appends what was just read, inside the kernel where both files' filesystems know how."""

    def __init__(self, original: Any, copy: IO[bytes]):
        self._original, self._copy = original, copy
        self._inside = hasattr(os, "copy_file_range") and copy.tell() == 0

    def __call__(self, content: bytes) -> None:
        left = memoryview(content)
        place = self._original.tell() - len(content)
        # Files on different filesystems cannot, as a rule; the first attempt tells.
        while self._inside and left:
            try:
                size = os.copy_file_range(self._original.fileno(), self._copy.fileno(), len(left), place)
            except OSError:
                size = 0
            self._inside = size > 0
            left, place = left[size:], place + size
        while left:
            left = left[self._copy.write(left) :]


def _reflink(path: str | Path, target: Path) -> bool:
    """Make ``target`` share the blocks of a file; False where the filesystem cannot."""
    with open_source(path) as original, open(target, "wb") as copy, suppress(OSError):
        fcntl.ioctl(copy.fileno(), FICLONE, original.fileno())
        os.fsync(copy.fileno())
        return True
    target.unlink()
    return False
