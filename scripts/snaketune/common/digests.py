"""Content digests of files, streamed, and a cache that re-reads a file only when it changed on disk."""

import hashlib
from pathlib import Path

from snaketune.common.canonical import digest_of, read_json
from snaketune.common.atomic import write_json

CHUNK_BYTES = 8 << 20


def file_digest(path: str | Path) -> str:
    """Return the BLAKE2b-128 digest (32 hex digits) of the file at ``path``, read in 8 MiB pieces."""
    state = hashlib.blake2b(digest_size=16)
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
    """Digests keyed by path, size, mtime_ns and inode, kept in one JSON file.

    A file whose four keys are unchanged is not read again; anything else (also an older mtime) is.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._known: dict[str, list] = read_json(self._path) if self._path.exists() else {}
        self._dirty = False

    def digest(self, path: str | Path) -> str:
        """Return the digest of the file at ``path``, from the cache when it did not change on disk."""
        path = Path(path).resolve()
        stat = path.stat()
        key = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(str(path))
        if known and known[:3] == key:
            return known[3]
        digest = file_digest(path)
        self._known[str(path)] = [*key, digest]
        self._dirty = True
        return digest

    def folder_digest(self, path: str | Path) -> str:
        """Return one digest over the names and contents of all files under the folder ``path``."""
        path = Path(path)
        return digest_of({str(p.relative_to(path)): self.digest(p) for p in files_under(path)})

    def save(self) -> None:
        """Write the cache back if it learned something."""
        if self._dirty:
            write_json(self._path, self._known)
            self._dirty = False
