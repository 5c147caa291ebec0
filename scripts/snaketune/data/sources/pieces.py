"""Pieces: parts of a container for several processes to work on."""

from dataclasses import dataclass
from typing import Any, Protocol

# Blocks of this size stay in the CPU cache.
BLOCK_BYTES = 1 << 18


class Coding(Protocol):
    """Decodes the content of a piece into records; small, since it is sent to other processes with each piece."""

    def items(self, content: bytes, number: int) -> list[Any]:
        """Return the records of a piece, ``number`` being that of the first one.

        Each is an object, or bytes to be parsed as one; empty bytes are a blank record, which is counted but not read.
        """


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive records of a container.

    Attributes:
        number: number of the first record, from 1.
        offset: byte offset of the first record in the decompressed content; None if offsets have no meaning.
        size: bytes of the content.
        content: whole records; ``coding`` decodes them, None for lines of JSON.
    """

    number: int
    offset: int | None
    size: int
    content: bytes
    coding: Coding | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive blocks of an uncompressed file of lines that can be read without what is before them.

    Attributes:
        line: number of the first line, from 1.
        offset: byte offset of the first line.
        position: how far the file had been read when the line before ended: the next bytes are read from there, so that
            the blocks are cut as in a reading of the whole file.
        blocks: number of blocks.
        digest: XXH3-128 of the content of the blocks.
    """

    line: int
    offset: int
    position: int
    blocks: int
    digest: str
