"""Disk space: checked before large writes, and explained in one sentence when it runs out."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snaketune.core.errors import DiskFullError

FULL = {errno.ENOSPC, errno.EDQUOT}
# How libraries with their own writers report a full disk: safetensors, torch's archives, streams of C++, Arrow.
SAYS_FULL = re.compile(r"no space left|os error (?:28|122)\b|disk quota exceeded|errno (?:28|122)\b", re.IGNORECASE)
MAY_MEAN_FULL = re.compile(
    r"i/o error|iostream error|unexpected pos|file write failed|error writing|writing file", re.I
)
# A disk with less than this counts as full: writes are in larger pieces.
LITTLE_BYTES = 1 << 20


def free_bytes(place: str | Path) -> int:
    """Return the bytes available to this user on the disk of a path, or of its nearest existing parent."""
    path = Path(place).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def has_no_inodes(place: str | Path) -> bool:
    """Tell whether a disk is out of inodes, however many bytes are free."""
    path = Path(place).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    facts = os.statvfs(path)
    return bool(facts.f_files) and facts.f_favail == 0


def require_room(place: str | Path, needed: int, what: str) -> None:
    """Refuse to start a write that a disk has no room for.

    Args:
        place: where it is written.
        needed: how much, in bytes.
        what: what needs it, as the subject of the sentence.

    Raises:
        DiskFullError: with the path, the bytes needed and the bytes free.
    """
    if has_no_inodes(place):
        raise _no_inodes(Path(place))
    if (free := free_bytes(place)) < needed:
        raise DiskFullError(
            f"{place}: {what} needs {needed:,} bytes and {free:,} are free on its disk: free space there, then run the"
            " same command again; what is finished is kept."
        )


@contextmanager
def explaining_full_disk(place: Path, needed: int = 0) -> Iterator[None]:
    """Turn any error that a full disk causes in the block into one sentence.

    Args:
        place: the file or folder that the block writes.
        needed: bytes that it takes, where they are known; otherwise reported as more than what was written.

    Raises:
        DiskFullError: with the path and the bytes needed.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFullError) or not is_full_disk(error, [place]):
            raise
        if has_no_inodes(place.parent):
            raise _no_inodes(place.parent) from error
        written = _written(place)
        at_least = "" if needed else "more than "
        raise DiskFullError(
            f"{place.parent}: {reason_of(error)}: {place.name} needs {at_least}{max(needed, written):,} bytes, of which"
            f" {written:,} were written and are removed: free space there, then run the same command again; what is"
            " finished is kept."
        ) from error


def reason_of(error: BaseException) -> str:
    """Return what is exhausted: a disk may have space that this user's quota forbids."""
    is_quota = getattr(error, "errno", None) == errno.EDQUOT or "quota" in str(error).lower()
    return "your quota on this disk is used up (`quota -s` shows it)" if is_quota else "the disk is full"


def _no_inodes(place: Path) -> DiskFullError:
    return DiskFullError(
        f"{place}: its disk is out of inodes, although {free_bytes(place):,} bytes are free (`df -i` shows "
        "them): remove files there, then run the same command again; what is finished is kept."
    )


def is_full_disk(error: BaseException, places: Iterable[str | Path]) -> bool:
    """Tell whether an error comes from a full disk: it says so, or it is ambiguous and one of ``places`` is full."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    text = str(error)
    return bool(SAYS_FULL.search(text) or (MAY_MEAN_FULL.search(text) and full_places(places)))


def full_places(places: Iterable[str | Path]) -> list[str]:
    """Return those of ``places`` whose disk has no room."""
    found = []
    for place in places:
        with suppress(OSError):
            found += [str(place)] if free_bytes(place) < LITTLE_BYTES else []
    return found


def usual_places() -> list[str]:
    """Return the folders that a job writes to in addition to its outputs."""
    return list(dict.fromkeys(["work", ".", tempfile.gettempdir(), os.environ.get("TMPDIR", tempfile.gettempdir())]))


def _written(place: Path) -> int:
    total = 0
    for file in (place, *place.rglob("*")):
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total
