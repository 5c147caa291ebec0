"""Content digests of files, streamed, and a cache that re-reads a file only when it changed on disk."""

from collections.abc import Iterable
from pathlib import Path

import xxhash

from snaketune.common.canonical import digest_of
from snaketune.common.state import read_state, write_state

CHUNK_BYTES = 8 << 20


def file_digest(path: str | Path) -> str:
    """Return the XXH3-128 digest (32 hex digits) of the file at ``path``, read in 8 MiB pieces.

    XXH3 reads as fast as the disk; it guards against change and damage, not against forgery.
    """
    state = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def files_under(path: str | Path) -> list[Path]:
    """Return the regular files at or under ``path``, sorted, without hidden ones."""
    path = Path(path)
    if path.is_file():
        return [path]
    found = (p for p in path.rglob("*") if p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts))


class DigestCache:
    """Digests keyed by path, size, mtime_ns, inode and ctime_ns, kept in one JSON file.

    A file whose keys are unchanged is not read again; anything else (also an older mtime) is. No program can set the
    ctime, so that new content under the old size and mtime is noticed.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._known: dict[str, list] = read_state(self._path, _is_entry)
        self._dirty = False

    def knows(self, path: str | Path) -> bool:
        """Tell whether the file at ``path`` is unchanged since it was last read."""
        path = Path(path).resolve()
        known = self._known.get(str(path))
        return known is not None and known[:-1] == _stat_key(path)

    def digest(self, path: str | Path) -> str:
        """Return the digest of the file at ``path``, from the cache when it did not change on disk."""
        path = Path(path).resolve()
        if not self.knows(path):
            key = _stat_key(path)
            self._known[str(path)] = [*key, file_digest(path)]
            self._dirty = True
        return self._known[str(path)][-1]

    def folder_digest(self, path: str | Path) -> str:
        """Return one digest over the names and contents of all files under the folder ``path``."""
        path = Path(path)
        return self.digest_of_files(path, files_under(path))

    def digest_of_files(self, folder: Path, files: Iterable[Path]) -> str:
        """Return one digest over the names and contents of ``files``, all of them under ``folder``."""
        return digest_of({str(p.relative_to(folder)): self.digest(p) for p in files})

    def save(self) -> None:
        """Write the cache back if it learned something."""
        if self._dirty:
            write_state(self._path, self._known)
            self._dirty = False


def _stat_key(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns]


def _is_entry(entry: object) -> bool:
    """Tell whether an entry of the cache has the form of one."""
    return (
        isinstance(entry, list)
        and len(entry) == 5
        and all(isinstance(number, int) for number in entry[:-1])
        and isinstance(entry[-1], str)
    )
