"""Content digests of files, streamed, and a cache that re-reads a file only when it changed on disk."""

from collections.abc import Iterable
from pathlib import Path

import xxhash

from snaketune.core.canonical import digest_of, open_regular
from snaketune.core.content_cache import Remembered

HASHED_AT_ONCE = 8 << 20


def file_digest(path: str | Path) -> str:
    """Return the XXH3-128 digest (32 hex digits) of the file at ``path``, read in 8 MiB pieces.

    XXH3 is as fast as the disk; it detects change and damage, not forgery.
    """
    state = xxhash.xxh3_128()
    with open_regular(path, buffering=0) as file:
        while chunk := file.read(HASHED_AT_ONCE):
            state.update(chunk)
    return state.hexdigest()


def files_under(path: str | Path) -> list[Path]:
    """Return the regular files at or under ``path``, sorted, hidden ones left out."""
    path = Path(path)
    if path.is_file():
        return [path]
    found = (p for p in path.rglob("*") if p.is_file())
    # Hidden files are temporary files of writers and silly renames of NFS, no results.
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts))


class DigestCache:
    """Digests of files, kept in one JSON file: an unchanged file is not read again."""

    def __init__(self, path: str | Path):
        self._remembered = Remembered(path, lambda value: isinstance(value, str))

    def knows(self, path: str | Path) -> bool:
        """Tell whether the file at ``path`` is unchanged since it was last read."""
        return self._remembered.knows(Path(path).resolve())

    def digest(self, path: str | Path) -> str:
        """Return the digest of the file at ``path``, reading it only if it changed on disk."""
        found: str = self._remembered.value(Path(path).resolve(), file_digest)
        return found

    def folder_digest(self, path: str | Path) -> str:
        """Return one digest over the names and contents of all files under the folder ``path``."""
        path = Path(path)
        return self.digest_of_files(path, files_under(path))

    def digest_of_files(self, folder: Path, files: Iterable[Path]) -> str:
        """Return one digest over the names and contents of ``files``, all of them under ``folder``."""
        return digest_of({str(p.relative_to(folder)): self.digest(p) for p in files})

    def save(self) -> None:
        """Write the cache back if it changed."""
        self._remembered.save()
