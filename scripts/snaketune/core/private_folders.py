"""Folders that no other user can write to, on disks that several users share."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from snaketune.core.atomic import flush
from snaketune.core.errors import DataError


def own_place(folder: Path) -> Path:
    """Return ``folder`` if only we can write to it or it does not exist yet; otherwise a folder of ours in it.

    A folder that all users of a machine share is the usual scratch of a cluster.
    """
    try:
        status = folder.stat()
    except FileNotFoundError:
        return folder
    if status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return folder
    return folder / f"snaketune-{os.geteuid()}"


class PrivateFolder:
    """A folder of ours with mode 0700, held open: operations act on this folder even if its path is replaced.

    Args:
        path: its path; it is created if missing.

    Raises:
        DataError: if a link, a file or another user's folder is there.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            kind = "a link" if path.is_symlink() else "a file"
            raise DataError(
                f"{path} is {kind} where the workflow needs a folder of its own: remove it. {OTHER_PLACE}"
            ) from None
        status = os.fstat(self._descriptor)
        if status.st_uid != os.geteuid():
            os.close(self._descriptor)
            raise DataError(
                f"{path} belongs to another user (uid {status.st_uid}): ask them to remove it. {OTHER_PLACE}"
            )
        if stat.S_IMODE(status.st_mode) != 0o700:
            os.fchmod(self._descriptor, 0o700)

    def __enter__(self) -> "PrivateFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def create(self, name: str) -> int:
        """Create a new file and return its descriptor, for writing."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self._descriptor)

    def resume(self, name: str) -> int:
        """Open a file of ours, creating it if missing.

        Anything that is not a regular file of ours alone is removed first.
        """
        self.remove_planted(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self._descriptor)

    def remove_planted(self, name: str) -> None:
        """Remove anything at a path to be written that is not a regular file of this user with a single link."""
        try:
            status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == os.geteuid():
            return
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{self.path / name} is a folder where the workflow needs a file: remove it. {OTHER_PLACE}")
        os.unlink(name, dir_fd=self._descriptor)

    def has(self, name: str) -> bool:
        """Tell whether a regular file of that name exists."""
        try:
            return stat.S_ISREG(os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def remove(self, name: str) -> None:
        """Remove a file."""
        os.unlink(name, dir_fd=self._descriptor)

    def publish(self, name: str, final: str) -> None:
        """Give a finished file its final name, and flush both."""
        os.rename(name, final, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        flush(self._descriptor)


OTHER_PLACE = "Or choose another folder for paths.scratch."
