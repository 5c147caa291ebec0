"""Locks that die with the process that holds them, so that a crash leaves nothing to unlock.

flock is used where the file system supports it. Lustre mounted without locks, NFS without its lock service and some
FUSE file systems do not: there a second file, ``<name>.held``, created exclusively, names its holder and is taken over
when that process is gone.
"""

import errno
import fcntl
import json
import os
import stat
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO

from snaketune.core.errors import DataError
from snaketune.core.processes import is_gone, this_place

# Errors of flock on a file system without locks.
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
# How long a file may exist without the name of its holder before it counts as stale, in seconds.
MAKING_SECONDS = 60.0
POLL_SECONDS = 0.5


class Lock:
    """A lock that this process holds until it is closed or the process ends."""

    def __init__(self, file: IO[str], held: Path | None = None):
        self._file = file
        self._release = weakref.finalize(self, _remove_own, held, os.getpid()) if held else None

    def close(self) -> None:
        """Release the lock."""
        if self._release:
            self._release()
        self._file.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def try_lock(path: str | Path) -> tuple[Lock | None, str]:
    """Take the lock file at ``path`` without waiting.

    Returns:
        The lock (keep it: closing it releases it) and an empty text, or ``None`` and the pid of the process that holds
        it, with the host if it is another.

    Raises:
        DataError: if ``path`` is not a regular file: a link could point at another user's file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file stays after the lock is released: removing it would let two processes lock two different files of that
    # name.
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        return None, holder
    except OSError as error:
        if error.errno not in NO_LOCKS:
            file.close()
            raise
        return _try_to_hold(path, file)
    _sign(file)
    return Lock(file), ""


def wait_for_lock(path: str | Path, doing: str = "works on the same run") -> Lock:
    """Take the lock file at ``path``, printing once who holds it if it is not free.

    Args:
        path: the lock file.
        doing: what the holder of the lock is doing, for the message.

    Raises:
        DataError: as :func:`try_lock`.
    """
    lock, holder = try_lock(path)
    if lock is None:
        print(f"Waiting for process {holder}, which {doing} ({path}).", flush=True)
    while lock is None:
        time.sleep(POLL_SECONDS)
        lock, _ = try_lock(path)
    return lock


def _open(path: Path) -> IO[str]:
    """Open a lock file without following a link and without blocking on a pipe."""
    # O_NOFOLLOW and O_NONBLOCK: in a shared folder another user could have put a link or a pipe at this path.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _no_lock_file(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_lock_file(path)
    return os.fdopen(descriptor, "r+")


def _no_lock_file(path: Path) -> DataError:
    kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "not a regular file"
    return DataError(
        f"{path} is {kind}, and a lock file has to be a regular file of its own: remove it and run the same command."
    )


def _sign(file: IO[str]) -> None:
    file.seek(0)
    # A shorter process id must not leave digits of the one before.
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()


def _try_to_hold(path: Path, file: IO[str]) -> tuple[Lock | None, str]:
    """Emulate a lock on a file system without locks, by a file created exclusively."""
    held = path.with_name(f"{path.name}.held")
    if not _create(held) and not (_break_stale(held) and _create(held)):
        file.close()
        return None, _holder(held)
    return Lock(file, held), ""


def _create(path: Path) -> bool:
    """Create a file that names this process; False if it exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        json.dump({"place": this_place(), "pid": os.getpid()}, file)
    return True


def _break_stale(held: Path) -> bool:
    """Remove a file whose process is gone.

    One process at a time, so that none removes what another has just created.
    """
    breaking = held.with_name(f"{held.name}.breaking")
    if not _is_stale(held):
        return False
    if _is_stale(breaking):
        breaking.unlink(missing_ok=True)
    if not _create(breaking):
        return False
    try:
        # held
        if _is_stale(held):
            held.unlink(missing_ok=True)
        return True
    finally:
        breaking.unlink(missing_ok=True)


def _is_stale(path: Path) -> bool:
    try:
        status = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    place, pid = _read_holder(path)
    if pid:
        # On another host the answer is unknown, and an unknown holder is taken to be alive.
        return is_gone(place, pid) is True
    return time.time() - status.st_mtime > MAKING_SECONDS


def _read_holder(path: Path) -> tuple[str, int]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_text())
        return str(found["place"]), int(found["pid"])
    return "", 0


def _holder(held: Path) -> str:
    place, pid = _read_holder(held)
    if place == this_place() or not pid:
        return str(pid or "?")
    return f"{pid} on {place.rpartition('.')[0] or place} (if it is gone, remove {held})"


def _remove_own(held: Path, pid: int) -> None:
    if os.getpid() == pid:  # a fork of the holder does not own the lock
        held.unlink(missing_ok=True)
