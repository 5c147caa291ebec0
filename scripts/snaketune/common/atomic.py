"""Writing so that a final name never holds a partial artefact: temporary sibling, fsync, rename."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def sibling(path: Path) -> Path:
    """Return the temporary name beside ``path`` that this process writes to before renaming."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def sync_directory(path: Path) -> None:
    """Flush a directory entry to disk, so that a rename survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at ``path`` only when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = sibling(path)
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_directory(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with writing(path) as file:
        file.write(content)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as readable, sorted JSON to ``path`` atomically."""
    # Here, because reading packed rows has to work on a machine without orjson.
    from snaketune.common.canonical import pretty_bytes

    write_bytes(path, pretty_bytes(value))


@contextmanager
def writing_directory(path: str | Path) -> Iterator[Path]:
    """Give an empty folder that becomes ``path`` when the block ends without an error.

    Files are made readable for the group and others as the umask allows (safetensors writes mode 0600) and
    are flushed before the rename. An existing folder at ``path`` is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = sibling(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        sync_tree(partial)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
        sync_directory(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def private_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder that is gone when the block ends, also after an error.

    What a killed process left there is removed first.
    """
    path = Path(path)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Flush every file under ``folder`` to disk and give it the permissions that the umask allows.

    Hard links share their permissions with the file they link to, which is a user's own: they are left alone.
    """
    umask = os.umask(0)
    os.umask(umask)
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        if file.stat().st_nlink == 1:
            file.chmod(0o666 & ~umask)
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
