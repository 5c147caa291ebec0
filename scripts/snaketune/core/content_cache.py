"""A cache of facts about files, valid while the files do not change on disk."""

import time
from collections.abc import Callable
from os import stat_result
from pathlib import Path
from typing import Any

from snaketune.core.cached_state import read_state, write_state

# Kernels advance ctime in steps of up to 10 ms: two changes within one step leave the same ctime.
SETTLED_NS = 20_000_000


class Remembered:
    """Values keyed by path, size, mtime_ns, inode and ctime_ns, kept in one JSON file.

    A value holds while the keys of its file are unchanged. No program can set a ctime, so new content with the old size
    and mtime is noticed. A file that changed just before it was read is not cached: a change right after the read could
    have the same ctime.

    Args:
        path: the JSON file.
        is_value: tells whether a value in it has the expected form.
    """

    def __init__(self, path: str | Path, is_value: Callable[[Any], bool]):
        self._path = Path(path)
        self._known: dict[str, list[Any]] = read_state(self._path, lambda entry: _is_entry(entry, is_value))
        self._dirty = False

    def knows(self, path: str | Path, stat: stat_result | None = None) -> bool:
        """Tell whether the file at ``path`` is unchanged since its value was cached.

        Args:
            path: the file, absolute and without links.
            stat: its ``os.stat_result``, if the caller already has it.
        """
        known = self._known.get(str(path))
        return known is not None and known[:-1] == _key(stat or Path(path).stat())

    def value(self, path: str | Path, find_out: Callable[[Path], Any], stat: stat_result | None = None) -> Any:
        """Return the value of the file at ``path``, computed by ``find_out`` if the file changed on disk."""
        path = Path(path)
        if self.knows(path, stat):
            return self._known[str(path)][-1]
        # The key is taken before reading: a change during the read leaves an entry that no longer matches the file.
        key, now = _key(path.stat()), time.time_ns()
        found = find_out(path)
        if abs(now - key[-1]) > SETTLED_NS:
            self._known[str(path)] = [*key, found]
            self._dirty = True
        return found

    def save(self) -> None:
        """Write the cache."""
        if self._dirty:
            write_state(self._path, self._known)
            self._dirty = False


def _key(stat: stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns]


def _is_entry(entry: object, is_value: Callable[[Any], bool]) -> bool:
    """Tell whether an entry is well-formed."""
    if not isinstance(entry, list) or len(entry) != 5:
        return False
    return all(isinstance(number, int) for number in entry[:-1]) and is_value(entry[-1])
