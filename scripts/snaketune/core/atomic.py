"""Writing so that a final name never holds a partial artefact: temporary sibling, fsync, rename."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from snaketune.core.disk_space import explaining_full_disk
from snaketune.core.errors import ConfigError
from snaketune.core.processes import this_process

LONGEST_PATH = 4095

# The longest name of a file, in bytes, on every common file system.
LONGEST_NAME = 255
# Errors of file systems that cannot flush a folder, or anything at all: some of CIFS, FUSE and overlays.
CANNOT_FLUSH = {
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EBADF,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
}


def sibling(path: Path) -> Path:
    """Return the temporary name in the folder of ``path`` that this process writes to before renaming."""
    return path.with_name(hidden_name(path.name, f".partial-{this_process()}"))


def hidden_name(name: str, end: str) -> str:
    """Return ``.<name><end>``; a name too long for the file system is cut and kept unique by a digest."""
    if len(os.fsencode(f".{name}{end}")) <= LONGEST_NAME:
        return f".{name}{end}"
    mark = f"~{hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()}"
    room = LONGEST_NAME - len(os.fsencode(f".{mark}{end}"))
    return f".{os.fsencode(name)[:room].decode(errors='ignore')}{mark}{end}"


def flush(descriptor: int) -> bool:
    """Flush an open file or folder to disk; False if its file system cannot, which costs crash safety, not results."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_FLUSH:
            raise
        return False
    return True


def sync_directory(path: Path) -> bool:
    """Flush a directory entry to disk, so that a rename survives a power cut; False if that is impossible.

    The workflow says so once when it starts, see ``snaketune.workflow.write_checks``.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder with write permission but no read permission
        return False
    try:
        return flush(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at ``path`` only when the block ends without an error."""
    path = Path(path)
    partial = sibling(path)
    partial.unlink(missing_ok=True)
    try:
        with explaining_full_disk(partial):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Mode x creates the file or fails: a link planted by another user is never written through.
            with open(partial, "xb") as file:
                yield file
                file.flush()
                flush(file.fileno())
        # The order is fixed: content, then the name, then the folder's entry. A power cut in between leaves the old
        # file or the new one.
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
    # Imported here: reading packed rows has to work on a machine without orjson.
    from snaketune.core.canonical import pretty_bytes

    write_bytes(path, pretty_bytes(value))


@contextmanager
def writing_directory(path: str | Path) -> Iterator[Path]:
    """Give an empty folder that becomes ``path`` when the block ends without an error.

    Files are made readable for the group and others as the umask allows (safetensors writes mode 0600) and
    are flushed before the rename. An existing folder at ``path`` is replaced.
    """
    path = Path(path)
    partial = sibling(path)
    remove_tree(partial)
    try:
        with explaining_full_disk(partial):
            partial.mkdir(parents=True)
            yield partial
            sync_tree(partial)
        replace_folder(partial, path)
        sync_directory(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Give a folder the name ``path``.

    An existing folder is moved aside first, so that a half-written one is never visible.
    """
    # A rename cannot replace a folder that is not empty.
    aside = sibling(path.with_name(f"{path.name}.old"))
    remove_tree(aside)
    if path.is_symlink() or path.exists():
        path.rename(aside)
    os.replace(new, path)
    # NFS keeps files that are still open; the next workflow removes the rest.
    shutil.rmtree(aside, ignore_errors=True)
    if aside.is_symlink() or aside.is_file():
        aside.unlink()


@contextmanager
def private_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder that is removed when the block ends, even after an error.

    What a killed process left there is removed first.
    """
    path = Path(path)
    remove_tree(path)
    path.mkdir(parents=True)
    try:
        with explaining_full_disk(path):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_tree(path: Path) -> None:
    """Remove what is at ``path``: a folder with its contents, a file, or a link (never its target)."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def sync_tree(folder: Path) -> None:
    """Flush every file under ``folder`` to disk and give it the permissions that the umask allows.

    Hard links share their permissions with the file they link to, which is a user's own: they are left alone.
    """
    # There is no call that only reads the umask.
    umask = os.umask(0)
    os.umask(umask)
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        if file.stat().st_nlink == 1:
            file.chmod(0o666 & ~umask)
        with open(file, "rb") as handle:
            flush(handle.fileno())


def could_be_path(text: str) -> bool:
    """Tell whether a file could have this path; for any other, the system raises instead of answering no."""
    return (
        "\0" not in text
        and len(os.fsencode(text)) <= LONGEST_PATH
        and all(len(os.fsencode(part)) <= LONGEST_NAME for part in text.split("/"))
    )


def require_path(text: str, key: str) -> None:
    """Refuse what no file can be called.

    Raises:
        ConfigError: naming the key and the beginning of the text.
    """
    if not could_be_path(text):
        raise ConfigError(
            f"{key}: {text[:60]!r}... cannot be a path: a name in it is longer than {LONGEST_NAME} bytes, or it "
            "contains a NUL byte: correct it."
        )
