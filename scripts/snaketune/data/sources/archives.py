"""Archives that contain a single file, read as a stream without unpacking anything to disk."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import IO, Any

from snaketune.core.errors import DataError

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
TAR_MAGIC, TAR_PLACE = b"ustar", 257
ENCRYPTED = 1
# Files that some operating systems add to an archive.
SYSTEM_FILES = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
UNPACK = "unpack it and give the files in it"


def is_tar(head: bytes) -> bool:
    """Return whether data that begin with ``head``, of 512 bytes, are a tar archive."""
    return head[TAR_PLACE:].startswith(TAR_MAGIC)


def is_zip(head: bytes) -> bool:
    """Return whether data that begin with ``head`` are a zip archive."""
    return head.startswith(ZIP_MAGICS)


def zip_member(file: IO[bytes], name: str) -> tuple[str, io.RawIOBase]:
    """Return the name and content of the only file in a zip archive; reading raises EOFError if it is damaged.

    Raises:
        DataError: if the archive is damaged, does not contain exactly one file, or its file is encrypted or has a path
            outside the archive.
    """
    try:
        archive = zipfile.ZipFile(file)
        entries = [entry for entry in archive.infolist() if not entry.is_dir() and not _is_companion(entry.filename)]
        member = _only(entries, lambda entry: entry.filename, name, "zip")
        _refuse_climbing(member.filename, name)
        # The upper half of external_attr holds the Unix mode.
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{name}: {member.filename!r} in it is a link: pack the file itself.")
        if member.flag_bits & ENCRYPTED:
            raise DataError(f"{name}: {member.filename!r} in it is encrypted: unpack it and give the file.")
        return member.filename, _Damageable(archive.open(member))
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise DataError(f"{name} is a zip archive that cannot be read ({error}): download or pack it again.") from None


class TarMember(io.RawIOBase):
    """The content of the only file in a tar archive, read as a stream; at its end, a second file is refused.

    Raises:
        DataError: while reading, if the archive has no file or several, or a link or a path outside the archive.
        EOFError: while reading, if the archive is damaged or truncated.
    """

    def __init__(self, stream: io.RawIOBase, name: str):
        self._name = name
        whole: Any = _Whole(stream)
        try:
            self._archive = tarfile.open(fileobj=whole, mode="r|")  # noqa: SIM115 - read until close
            self.member, self._content = self._next()
        except tarfile.TarError as error:
            raise DataError(f"{name} is a tar archive that cannot be read ({error}): pack it again.") from None
        if self._content is None:
            raise DataError(f"{name} is a tar archive without a file in it: give a file with data.")

    def readable(self) -> bool:
        """Return True: this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` and return the number of bytes, 0 at the end."""
        view = memoryview(buffer)
        try:
            content = self._content.read(len(view)) if self._content else b""
            if not content and self._content:
                self._content = None
                second, _ = self._next()
                if second:
                    raise _several(self._name, "tar", [self.member, second])
        except tarfile.TarError as error:
            raise EOFError(str(error)) from None
        view[: len(content)] = content
        return len(content)

    def _next(self) -> tuple[str, IO[bytes] | None]:
        while entry := self._archive.next():
            if entry.isdir() or _is_companion(entry.name):
                continue
            _refuse_climbing(entry.name, self._name)
            if not entry.isreg():
                raise DataError(f"{self._name}: {entry.name!r} in it is a link or a device: pack the file itself.")
            return entry.name, self._archive.extractfile(entry)
        return "", None


class _Whole:
    """A stream whose ``read`` returns as many bytes as requested, as tarfile expects; exceptions pass unchanged."""

    def __init__(self, stream: io.RawIOBase):
        self._stream = stream

    def read(self, size: int) -> bytes:
        content = bytearray()
        while len(content) < size and (piece := self._stream.read(size - len(content))):
            content += piece
        return bytes(content)


class _Damageable(io.RawIOBase):
    """The content of a zip member; reading raises EOFError if it is damaged."""

    def __init__(self, content: IO[bytes]):
        self._content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        try:
            content = self._content.read(len(view))
        except EOFError:
            raise EOFError("the archive ends inside the file") from None
        except Exception as error:
            # zlib, bz2 and lzma have their own exceptions for damaged data, besides zipfile's.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise EOFError(str(error)) from None
        view[: len(content)] = content
        return len(content)


def _only(entries: list[Any], name_of: Callable[[Any], str], name: str, kind: str) -> Any:
    if not entries:
        raise DataError(f"{name} is a {kind} archive without a file in it: give a file with data.")
    if len(entries) > 1:
        raise _several(name, kind, [name_of(entry) for entry in entries])
    return entries[0]


def _several(name: str, kind: str, names: list[str]) -> DataError:
    if any(one.startswith(("xl/", "word/")) for one in names):
        return DataError(f"{name} is an Office document: save its table as CSV and give that file.")
    shown = ", ".join(repr(one) for one in names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    return DataError(f"{name} is a {kind} archive with more than one file ({shown}): {UNPACK}.")


def _is_companion(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and (parts[0] in SYSTEM_FILES or parts[-1] in SYSTEM_FILES or parts[-1].startswith("._"))


def _refuse_climbing(member: str, name: str) -> None:
    parts = member.replace("\\", "/").split("/")
    if member.startswith(("/", "\\")) or ".." in parts or (len(member) > 1 and member[1] == ":"):
        raise DataError(f"{name}: {member!r} in it points outside of the archive: unpack it in a safe place.")
