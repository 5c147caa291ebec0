"""Opening files that may have been replaced by something else, without ever waiting for it."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path, buffering: int = -1) -> BinaryIO:
    """Open a regular file to read its bytes: a pipe would wait for a writer, and a device may be endless.

    Raises:
        OSError: if it cannot be opened; ``EINVAL`` if it is a pipe, a device or a socket.
    """
    file = open(path, "rb", buffering, opener=_without_waiting)  # noqa: SIM115 - returned open
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
