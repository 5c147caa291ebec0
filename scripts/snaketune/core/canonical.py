"""One JSON text per value: sorted keys and fixed formatting for everything that is hashed, stored or compared."""

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from snaketune.core.errors import NotJsonError

# An object as it was read: a record, or a file of another program, whose keys are not declared here.
Json = dict[str, Any]

# What opening a folder, a pipe or a device, or a link that leads to itself, ends with.
NOT_REGULAR = (errno.EISDIR, errno.EINVAL, errno.ENXIO, errno.ELOOP)


def canonical_bytes(value: Any) -> bytes:
    """Return the compact JSON text of ``value`` with sorted keys.

    Raises:
        TypeError: for values without a stable JSON form (sets, paths, objects): a permissive ``str()``
            would let identities fork silently.
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def canonical_text(value: Any) -> str:
    """Return :func:`canonical_bytes` as text."""
    return canonical_bytes(value).decode()


def digest_of(value: Any, size: int = 16) -> str:
    """Return the BLAKE2b digest (hex, ``size`` bytes) of the canonical JSON of ``value``."""
    return hashlib.blake2b(canonical_bytes(value), digest_size=size).hexdigest()


def pretty_bytes(value: Any) -> bytes:
    """Return readable JSON with sorted keys and a final newline: the form of every fact file."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def read_json(path: str | Path) -> Any:
    """Parse the JSON file at ``path``.

    Raises:
        NotJsonError: if its content is not JSON, or it is not a regular file.
    """
    try:
        with open_regular(path) as file:
            return orjson.loads(file.read())
    except OSError as error:
        if error.errno not in NOT_REGULAR:
            raise
        raise NotJsonError(
            f"{path} is not a regular file: delete it and run the same command, its stage writes it again."
        ) from None
    except orjson.JSONDecodeError as error:
        raise NotJsonError(
            f"{path} is not JSON ({error}): delete it and run the same command, its stage writes it again."
        ) from None


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
