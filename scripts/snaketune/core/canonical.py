"""One JSON text per value: sorted keys and fixed formatting for everything that is hashed, stored or compared."""

import errno
import hashlib
from pathlib import Path
from typing import Any

import orjson

from snaketune.core.errors import NotJsonError
from snaketune.core.regular_files import open_regular

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
