"""Verified copies of large files: by reflink if the file system supports it, hashed while copying, and resumable."""

import fcntl
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import xxhash

from snaketune.core.atomic import hidden_name
from snaketune.core.digests import HASHED_AT_ONCE, file_digest
from snaketune.core.disk_space import FULL
from snaketune.core.errors import DiskFullError
from snaketune.core.private_folders import PrivateFolder
from snaketune.data.sources.source_files import changed, open_source

# The FICLONE ioctl of Linux: a new file shares the blocks of another one until either is changed.
FICLONE = 0x40049409


@dataclass(frozen=True, slots=True)
class Copied:
    """How a copy was made.

    Attributes:
        how: ``reflink`` or ``copy``.
        resumed: bytes left by an interrupted attempt.
        read: read throughput of the original in bytes per second; None if nothing was read.
    """

    how: str
    resumed: int
    read: float | None


def copy_verified(
    path: str | Path, target: Path, digest: str, advance: Callable[[int], object], share: bool = True
) -> Copied:
    """Copy a file to ``target``, which appears only with the expected content; one process at a time.

    An interrupted copy is kept beside ``target`` and resumed; the final digest covers the resumed part as well.

    Args:
        path: the file.
        target: the copy.
        digest: expected XXH3-128 of the file.
        advance: called with the number of bytes processed.
        share: whether to try a reflink.

    Raises:
        DataError: if the file cannot be read or its content differs.
    """
    partial = hidden_name(target.name, ".partial")
    with PrivateFolder(target.parent) as folder:
        folder.remove_planted(partial)
        done = _share(path, folder, partial, digest, advance) if share and not folder.has(partial) else None
        done = done or _copy(path, folder, partial, digest, advance)
        folder.publish(partial, target.name)
    return done


def _share(
    path: str | Path, folder: PrivateFolder, partial: str, digest: str, advance: Callable[[int], object]
) -> Copied | None:
    """Make a copy that shares the blocks of a file; None if the file system does not support it."""
    with open_source(path) as original, os.fdopen(folder.create(partial), "wb", buffering=0) as copy:
        shared = _reflink(original, copy)
        _keep_mode(original, copy)
    if not shared:
        folder.remove(partial)
        return None
    # A reflink shares the blocks of the file as it is now, which may have changed since its digest was taken.
    if file_digest(folder.path / partial) != digest:
        folder.remove(partial)
        raise changed(str(path))
    # return Copied
    advance(Path(path).stat().st_size)
    return Copied("reflink", 0, None)


def _copy(
    path: str | Path, folder: PrivateFolder, partial: str, digest: str, advance: Callable[[int], object]
) -> Copied:
    with open_source(path) as original, os.fdopen(folder.resume(partial), "r+b", buffering=0) as copy:
        resumed = os.fstat(copy.fileno()).st_size
        try:
            found, rate = _append(original, copy, advance)
            # Renaming before the data are on the disk could publish an empty or partial file after a power cut.
            os.fsync(copy.fileno())
        except OSError as error:
            if error.errno in FULL:  # a partial copy would only keep the disk full
                full_disk = _no_room(folder.path, original, copy)
                folder.remove(partial)
                raise full_disk from None
            raise
        _keep_mode(original, copy)
    if found == digest:
        return Copied("copy", resumed, rate)
    folder.remove(partial)
    if not resumed:
        raise changed(str(path))
    # The resumed part may have been damaged, by a power cut for example: copy again from the start.
    advance(-Path(path).stat().st_size)
    return _copy(path, folder, partial, digest, advance)


def _keep_mode(original: Any, copy: IO[bytes]) -> None:
    """Give a copy the permissions of the original, so that nobody else can read it, and write access for the owner."""
    os.fchmod(copy.fileno(), stat.S_IMODE(os.fstat(original.fileno()).st_mode) & 0o666 | stat.S_IRUSR | stat.S_IWUSR)


def _append(original: Any, copy: IO[bytes], advance: Callable[[int], object]) -> tuple[str, float]:
    """Hash the part already copied, append the rest, and return the digest of all and the read throughput."""
    state, seconds, size = xxhash.xxh3_128(), 0.0, 0
    copy.seek(0)
    while content := copy.read(HASHED_AT_ONCE):
        state.update(content)
        advance(len(content))
    original.seek(copy.tell())
    append = _Appender(original, copy)
    while True:
        start = time.perf_counter()
        content = original.read(HASHED_AT_ONCE)
        seconds += time.perf_counter() - start
        if not content:
            return state.hexdigest(), size / max(seconds, 1e-9)
        state.update(content)
        append(content)
        size += len(content)
        advance(len(content))


def _no_room(folder: Path, original: Any, copy: IO[bytes]) -> DiskFullError:
    needed, written = (os.fstat(file.fileno()).st_size for file in (original, copy))
    return DiskFullError(
        f"{folder}: the disk is full: the copy needs {needed:,} bytes, of which {written:,} were written and are"
        " removed: free space there, or choose another disk for paths.scratch, then run the same command again."
    )


class _Appender:
    """Appends the bytes just read, by ``copy_file_range`` if the file systems support it."""

    # The bytes are read anyway, to be hashed; copying inside the kernel saves writing them from user space again.

    def __init__(self, original: Any, copy: IO[bytes]):
        self._original, self._copy = original, copy
        # Not for a resumed copy: its beginning was written by other means and the offsets would have to be kept in
        # step.
        self._inside = hasattr(os, "copy_file_range") and copy.tell() == 0

    def __call__(self, content: bytes) -> None:
        left = memoryview(content)
        place = self._original.tell() - len(content)
        # This usually fails between different file systems; the first attempt shows it.
        while self._inside and left:
            try:
                size = os.copy_file_range(self._original.fileno(), self._copy.fileno(), len(left), place)
            except OSError:
                size = 0
            self._inside = size > 0
            left, place = left[size:], place + size
        while left:
            left = left[self._copy.write(left) :]


def _reflink(original: Any, copy: IO[bytes]) -> bool:
    """Make an empty file share the blocks of another one; False if the file system does not support it."""
    try:
        fcntl.ioctl(copy.fileno(), FICLONE, original.fileno())
    except OSError:
        return False
    os.fsync(copy.fileno())
    return True
