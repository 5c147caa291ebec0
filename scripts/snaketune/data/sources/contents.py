"""The plain content of a source: layers of compression and archives are recognised by magic bytes and removed.

The file name does not matter. Text is UTF-8; UTF-16 and UTF-32 with a byte order mark are decoded.
"""

import codecs
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from snaketune.core.errors import DataError
from snaketune.data.sources.archives import TarMember, is_tar, is_zip, zip_member
from snaketune.data.sources.compression import Bounded, compression_of, unpacked
from snaketune.data.sources.source_files import MAGIC_BYTES, HashedFile, changed, open_source

# A compressed file in a compressed archive has three layers; deeper nesting is not an honest data file.
MOST_LAYERS = 4
READ_BYTES = 1 << 20
# Parquet and Arrow files need random access, so a stream of them goes to an unnamed temporary file first.
SEEKABLE = (b"PAR1", b"ARROW1")
# UTF-32 first: its little-endian mark begins with that of UTF-16.
WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class Peekable(io.RawIOBase):
    """A stream whose next bytes can be inspected without consuming them."""

    def __init__(self, stream: io.RawIOBase):
        self._stream, self._seen = stream, b""
        self._error: Exception | None = None

    def readable(self) -> bool:
        """Return True: this is for reading."""
        return True

    def peek(self, size: int) -> bytes:
        """Return the next ``size`` bytes, or all up to the end or to damaged data, without consuming them."""
        try:
            while len(self._seen) < size and not self._error and (piece := self._stream.read(size - len(self._seen))):
                self._seen += piece
        except (EOFError, OSError) as error:
            self._error = error  # raised once the reader gets that far
        return self._seen[:size]

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` and return the number of bytes, 0 at the end."""
        if not self._seen:
            if self._error:
                raise self._error
            return self._stream.readinto(buffer)
        view = memoryview(buffer)
        content, self._seen = self._seen[: len(view)], self._seen[len(view) :]
        view[: len(content)] = content
        return len(content)


class Decoded(io.RawIOBase):
    """Text of another encoding as UTF-8.

    Raises:
        EOFError: while reading, if the bytes are not valid in that encoding.
    """

    def __init__(self, stream: io.RawIOBase, encoding: str):
        self._stream, self._decoder = stream, codecs.getincrementaldecoder(encoding)()
        self._left = b""

    def readable(self) -> bool:
        """Return True: this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` and return the number of bytes, 0 at the end."""
        view = memoryview(buffer)
        while not self._left:
            content = self._stream.read(READ_BYTES) or b""
            try:
                self._left = self._decoder.decode(content, final=not content).encode()
            except UnicodeError as error:
                raise EOFError(f"the text is not in its encoding: {error}") from None
            if not content:
                break
        taken, self._left = self._left[: len(view)], self._left[len(view) :]
        view[: len(taken)] = taken
        return len(taken)


@dataclass(slots=True)
class Content:
    """A source with all layers around its content removed.

    Attributes:
        stream: the plain bytes from the beginning, possibly with a UTF-8 byte order mark.
        file: the same bytes with random access, for containers that need it; None for a stream.
        layers: the removed layers from the outside in: ``gzip``, ``zip``, ``utf-16`` and so on.
        member: name of the file in an archive.
        archive: the zip archive itself, if there is one.
    """

    name: str
    raw: HashedFile
    stream: Peekable
    file: IO[bytes] | None = None
    layers: list[str] = field(default_factory=list)
    member: str = ""
    archive: IO[bytes] | None = None

    def reached(self) -> int:
        """Return the number of bytes of the source that were read for the content consumed so far."""
        return self.archive.tell() if self.archive else self.raw.size

    def finish(self, digest: str) -> None:
        """Read the rest of the file and compare its digest with the one recorded when it was staged.

        Without a digest nothing more is read or compared.

        Raises:
            DataError: if the digests differ.
        """
        if not digest:
            return
        while self.raw.read(READ_BYTES):
            pass
        if self.raw.hexdigest() != digest:
            raise changed(self.name)


@contextmanager
def opened(name: str, place: str | Path, digest: str) -> Iterator[Content]:
    """Open a source and remove the layers around its content.

    Args:
        name: the user's name of the file.
        place: path of the file.
        digest: XXH3-128 of the file. Files with random access are verified first, others at their end by
            :meth:`Content.finish`. Empty to verify nothing.

    Raises:
        DataError: if it cannot be read, is an archive without exactly one file, or has too many layers.
    """
    file = open_source(place)
    raw = HashedFile(file)
    content = Content(name, raw, Peekable(raw))
    try:
        head = content.stream.peek(MAGIC_BYTES)
        if is_zip(head) or head.startswith(SEEKABLE):
            if digest:
                _verify(content, digest)
            if is_zip(head):
                _take_off_zip(content, open_source(place))
            else:
                content.file = open_source(place)
        _take_off(content)
        yield content
    finally:
        for one in (content.file, content.archive, raw):
            if one:
                one.close()


def _verify(content: Content, digest: str) -> None:
    """Verify the digest of a file before it is read with random access."""
    while content.stream.read(READ_BYTES):
        pass
    content.finish(digest)


def _take_off_zip(content: Content, archive: IO[bytes]) -> None:
    content.archive = archive
    content.member, inside = zip_member(archive, content.name)
    _add(content, "zip", inside)


def _take_off(content: Content) -> None:
    """Remove layer after layer until the content is left."""
    while content.file is None:
        head = content.stream.peek(MAGIC_BYTES)
        if kind := compression_of(head):
            _add(content, kind, unpacked(content.stream, kind))
        elif is_tar(head):
            archive = TarMember(content.stream, content.name)
            content.member = archive.member
            _add(content, "tar", archive)
        elif encoding := next((wide for mark, wide in WIDE_MARKS.items() if head.startswith(mark)), ""):
            _add(content, encoding, Decoded(content.stream, encoding))
            return
        elif head.startswith(SEEKABLE):
            content.file = _spooled(content.stream)
        elif is_zip(head):
            raise DataError(f"{content.name} has a zip archive inside: unpack it once and give the inner archive.")
        else:
            return


def _add(content: Content, layer: str, stream: io.RawIOBase) -> None:
    content.layers.append(layer)
    if len(content.layers) > MOST_LAYERS:
        raise DataError(
            f"{content.name} is packed {len(content.layers)} times ({', '.join(content.layers)}): unpack it."
        )
    content.stream = Peekable(Bounded(stream, lambda: content.raw.size, content.name))


def _spooled(stream: io.RawIOBase) -> IO[bytes]:
    """Write a stream to an unnamed temporary file, which disappears when it is closed."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    while piece := stream.read(READ_BYTES):
        file.write(piece)
    file.seek(0)
    return file
