"""Compressed sources as plain bytes: streamed, whatever they expand to, with everything before a damaged place."""

import io
import zlib
from typing import Any

READ_BYTES = 1 << 20


def decompressed(raw: io.RawIOBase, name: str) -> io.RawIOBase:
    """Return the content of a file, decompressed as its name says; reading raises EOFError where it is damaged."""
    if name.endswith(".gz"):
        return Gunzipped(raw)
    return Unzstd(raw) if name.endswith(".zst") else raw


class Gunzipped(io.RawIOBase):
    """The content of a gzip file of one or more members.

    Unlike :class:`gzip.GzipFile` it hands out everything before a damaged place, so that the line reached is
    known. Memory is bounded by the caller's buffer, whatever the data expand to.

    Raises:
        EOFError: while reading, if the file ends inside a member, or the data or their checksum are damaged.
    """

    def __init__(self, raw: io.RawIOBase):
        self._raw = raw
        self._member = _gzip_member()

    def readable(self) -> bool:
        """Return True: this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` with decompressed bytes and return their number, 0 at the end."""
        view = memoryview(buffer)
        while True:
            if self._member.eof:
                following = (self._member.unused_data or self._raw.read(READ_BYTES) or b"").lstrip(b"\0")
                if not following:
                    return 0
                self._member = _gzip_member()
            else:
                following = self._member.unconsumed_tail or self._raw.read(READ_BYTES) or b""
            content = self._decompress(following, len(view))
            if content:
                view[: len(content)] = content
                return len(content)
            if not following and not self._member.eof:
                raise EOFError("the file ends before the end-of-stream marker")

    def _decompress(self, following: bytes, size: int) -> bytes:
        try:
            return self._member.decompress(following, size)
        except zlib.error as error:
            raise EOFError(str(error)) from None


def _gzip_member():
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


class Unzstd(io.RawIOBase):
    """The content of a Zstandard file of one or more frames; windows of up to 128 MiB.

    Raises:
        EOFError: while reading, if the file ends inside a frame or the data are damaged.
    """

    def __init__(self, raw: io.RawIOBase):
        import pyarrow  # here, because few sources need it

        self._stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd")

    def readable(self) -> bool:
        """Return True: this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` with decompressed bytes and return their number, 0 at the end."""
        view = memoryview(buffer)
        try:
            content = self._stream.read(len(view))
        except OSError as error:
            if error.errno is not None:  # of the disk, not of the data
                raise
            raise EOFError(str(error)) from None
        view[: len(content)] = content
        return len(content)
