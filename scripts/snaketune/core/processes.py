"""Names of processes, from which another process can tell whether they still run."""

import os
import re
import socket
from contextlib import suppress
from pathlib import Path


def this_place() -> str:
    """Return where this process runs: the host and its PID namespace, since containers have their own.

    A pid is meaningful only there.
    """
    host = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:48] or "host"
    with suppress(OSError):
        host += f".{Path('/proc/self/ns/pid').stat().st_ino}"
    return host


def this_process() -> str:
    """Return the name of this process, ``<place>-<pid>``, as used in the names of partial files."""
    return f"{this_place()}-{os.getpid()}"


def is_gone(place: str, pid: int) -> bool | None:
    """Tell whether the process ``pid`` of ``place`` has ended; None if that cannot be known from here."""
    if place != this_place():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Tell whether a process ended but was not reaped by its parent, as in containers without an init."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[:1] == ["Z"]
