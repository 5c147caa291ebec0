"""Kernel locks: they die with the process that holds them, so a crash leaves nothing to unlock."""

import fcntl
import os
from pathlib import Path
from typing import IO


def try_lock(path: str | Path) -> tuple[IO[str] | None, str]:
    """Take the lock file at ``path`` without waiting.

    Returns:
        The open file (keep it: closing it releases the lock) and an empty text, or ``None`` and the pid of
        the process that holds it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+")  # noqa: SIM115 - the open file is the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        return None, holder
    _sign(file)
    return file, ""


def wait_for_lock(path: str | Path) -> IO[str]:
    """Take the lock file at ``path``, saying once who holds it if that takes time."""
    lock, holder = try_lock(path)
    if lock:
        return lock
    print(f"Waiting for process {holder}, which works on the same run ({path}).", flush=True)
    file = open(path, "a+")  # noqa: SIM115 - the open file is the lock
    fcntl.flock(file, fcntl.LOCK_EX)
    _sign(file)
    return file


def _sign(file: IO[str]) -> None:
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
