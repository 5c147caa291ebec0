"""Decompression as a stream, with a limit on the expansion, and complete up to the place of any damage."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from snaketune.core.errors import DataError

DECOMPRESSED_AT_ONCE = 1 << 20
# Real text does not compress 250-fold: such data are a decompression bomb. Up to 16 MiB they do no harm.
HARMLESS_BYTES = 16 << 20
MOST_EXPANSION = 250
# Enough for the dictionaries of all xz presets; a forged header may ask for more.
XZ_MEMORY = 256 << 20
GZIP_MAGIC, ZSTD_MAGIC, XZ_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0"
BZIP2_MAGIC, BZIP2_PLACE, BZIP2_BLOCKS = b"BZh", 4, (b"1AY&SY", b"\x17rE8P\x90")
SKIPPABLE = b"\x2a\x4d\x18"


def compression_of(head: bytes) -> str:
    """Return the compression of data that begin with ``head``: gzip, zstd, xz or bzip2, or '' if there is none."""
    # "BZh" alone could be text: the magic number of the first block, or of the empty file, must follow.
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    if head.startswith(ZSTD_MAGIC) or (len(head) > 3 and 0x50 <= head[0] <= 0x5F and head[1:4] == SKIPPABLE):
        return "zstd"
    if head.startswith(XZ_MAGIC):
        return "xz"
    return "bzip2" if head.startswith(BZIP2_MAGIC) and head[BZIP2_PLACE:].startswith(BZIP2_BLOCKS) else ""


def unpacked(raw: io.RawIOBase, kind: str) -> io.RawIOBase:
    """Return a stream of the decompressed data; ``kind`` is from :func:`compression_of`. Damage raises EOFError."""
    return Unzstd(raw) if kind == "zstd" else Inflated(raw, MEMBERS[kind])


class _GzipMember:
    """A member of a gzip file, with the interface of the decompressors of bz2 and lzma."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    eof = property(lambda self: self._inflate.eof)
    unused_data = property(lambda self: self._inflate.unused_data)
    needs_input = property(lambda self: not self._inflate.unconsumed_tail)

    def decompress(self, content: bytes, size: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + content, size)


MEMBERS: dict[str, Callable[[], Any]] = {
    "gzip": _GzipMember,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY),
}


class Inflated(io.RawIOBase):
    """The content of a gzip, bzip2 or xz file of one or more members.

    Unlike the readers of the standard library, it returns everything before the place of any damage, so that errors
    can name the line. Memory is bounded by the caller's buffer, however much the data expand.

    Raises:
        EOFError: while reading, if the file ends inside a member, or the data or their checksum are damaged.
    """

    def __init__(self, raw: io.RawIOBase, new_member: Callable[[], Any]):
        self._raw, self._new_member = raw, new_member
        self._member = new_member()

    def readable(self) -> bool:
        """Return True: this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` with decompressed bytes and return their number, 0 at the end."""
        view = memoryview(buffer)
        while True:
            if self._member.eof:
                following = self._following_member()
                if not following:
                    return 0
                self._member = self._new_member()
            else:
                following = (self._raw.read(DECOMPRESSED_AT_ONCE) or b"") if self._member.needs_input else b""
            # The decompressor may still hold output after the last input, so the end needs both conditions.
            is_end = not following and self._member.needs_input
            content = self._decompress(following, len(view))
            if content:
                view[: len(content)] = content
                return len(content)
            if is_end and not self._member.eof:
                raise EOFError("the file ends before the end-of-stream marker")

    def _following_member(self) -> bytes:
        """Return the first bytes after a member and its zero padding, which tar and tape tools add."""
        following = (self._member.unused_data or b"").lstrip(b"\0")
        while not following:
            content = self._raw.read(DECOMPRESSED_AT_ONCE)
            if not content:
                return b""
            following = content.lstrip(b"\0")
        return following

    def _decompress(self, following: bytes, size: int) -> bytes:
        try:
            found: bytes = self._member.decompress(following, size)
            return found
        except (zlib.error, lzma.LZMAError, OSError) as error:
            raise EOFError(str(error)) from None


class Unzstd(io.RawIOBase):
    """The content of a Zstandard file of one or more frames, with windows of up to 128 MiB.

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
            if error.errno is not None:  # an error of the disk, not of the data
                raise
            raise EOFError(str(error)) from None
        view[: len(content)] = content
        return len(content)


class Bounded(io.RawIOBase):
    """A stream that refuses compressed data that expand beyond what real text does.

    Args:
        stream: the plain bytes.
        taken: returns the number of bytes of the compressed file that were read for them.
        name: the user's name of the file.

    Raises:
        DataError: while reading, with the size reached.
    """

    def __init__(self, stream: io.RawIOBase, taken: Callable[[], int], name: str):
        self._stream, self._taken, self._name = stream, taken, name
        self._size = 0

    def readable(self) -> bool:
        """Return True: this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` and return the number of bytes, 0 at the end."""
        size = self._stream.readinto(buffer)
        self._size += size
        if self._size > HARMLESS_BYTES and self._size > MOST_EXPANSION * max(self._taken(), 1):
            raise DataError(
                f"{self._name}: its first {self._taken():,} bytes unpack to more than {self._size >> 20} MiB, over "
                f"{MOST_EXPANSION} times as much: if that is right, unpack it and give the file inside."
            )
        return size
