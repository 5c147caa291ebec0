"""Folders and patterns that stand for half a disk are refused before hours are spent in them."""

import glob
import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from snaketune.core.errors import ConfigError

# A folder with more entries is hardly a data set: `/` or a home folder would be walked for hours.
MOST_ENTRIES = 200_000


def walk(folder: Path, key: str, source: str, follow_links: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder below and at ``folder`` that is not hidden, and the names of all its files.

    Args:
        folder: where to begin.
        key: what the error names.
        source: what was configured.
        follow_links: whether links to folders are followed.

    Raises:
        ConfigError: if there are too many entries, as in `/` or where links lead in circles.
    """
    count = 0
    for place, folders, files in os.walk(folder, followlinks=follow_links):
        count += len(folders) + len(files)
        if count > MOST_ENTRIES:
            raise _too_many(key, source)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield place, files


def refuse_vast_pattern(pattern: str, key: str) -> None:
    """Refuse a pattern for which too many entries would be compared, as `/*/*/*/*`; glob itself has no bound.

    Folder by folder, so that what one part visits is counted before the part behind it multiplies it.

    Raises:
        ConfigError: naming ``key`` and the pattern.
    """
    parts, count = Path(pattern).parts, 0
    for depth, part in enumerate(parts):
        places = glob.iglob(str(Path(*parts[:depth]))) if glob.has_magic(part) else ()  # noqa: PTH207 - may be absolute
        for place in places:
            if part == "**":
                deque(walk(Path(place), key, pattern, follow_links=True), maxlen=0)
                continue
            count += _entries(place, MOST_ENTRIES - count + 1)
            if count > MOST_ENTRIES:
                raise _too_many(key, pattern)
        if part == "**":
            return  # what is behind it was visited


def _entries(folder: str, most: int) -> int:
    """Return the number of entries of a folder up to ``most``; none of a file or of what is closed to this user."""
    with suppress(OSError), os.scandir(folder) as entries:
        return sum(1 for _, _ in zip(range(most), entries, strict=False))
    return 0


def _too_many(key: str, source: str) -> ConfigError:
    return ConfigError(
        f"{key}: {source} stands for over {MOST_ENTRIES:,} files and folders: name the folder of the data set, or its"
        " files."
    )
