"""File systems that lack what Linux's own have, faked where their answers arrive."""

import errno
import os
from pathlib import Path

# What stands in a `sitecustomize` of a process that is to meet the same.
SITECUSTOMIZE = """
import errno, os
for name in os.environ.get("FAKE_DISK", "").split():
    if name == "links":
        def no(*arguments, **options):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        os.symlink = no
    if name == "locks":
        import fcntl
        def no(*arguments):
            raise OSError(errno.ENOSYS, "Function not implemented")
        fcntl.flock = no
    if name == "flushing":
        import stat
        flush = os.fsync
        def no(file):
            number = file if isinstance(file, int) else file.fileno()
            if stat.S_ISDIR(os.fstat(number).st_mode):
                raise OSError(errno.EINVAL, "Invalid argument")
            flush(number)
        os.fsync = no
"""


def without_links(monkeypatch, code: int = errno.EPERM) -> None:
    """Symbolic links cannot be made: exFAT, CIFS, a WSL mount of Windows."""

    def refuse(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "symlink", refuse)


def without_locks(monkeypatch, code: int = errno.ENOSYS) -> None:
    """There is no flock: Lustre without it, NFS without its lock service."""

    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)


def without_flushing(monkeypatch, code: int = errno.EINVAL) -> None:
    """Folders cannot be flushed: some of FUSE and CIFS."""
    flush = os.fsync

    def refuse(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(code, os.strerror(code))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)


def read_only(monkeypatch) -> None:
    """Nothing can be made, as root, whom permissions do not stop, sees it too."""

    def refuse(path, *arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
