"""What a container is cut into, so that several processes can work on it."""

from dataclasses import dataclass
from typing import Any, Protocol

# Blocks of this size stay in the processor's cache.
BLOCK_BYTES = 1 << 18


class Coding(Protocol):
    """How the content of a piece becomes records; small, as it goes to other processes with each piece."""

    def items(self, content: bytes, number: int) -> list[Any]:
        """Return the records of a piece whose first one has this number.

        Each is an object, or bytes that are to be one in JSON; empty bytes are nobody's record but have a number.
        """


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive records of a container.

    Attributes:
        number: of the first record, from 1.
        offset: byte offset of the first record in the decompressed content; None where that has no meaning.
        size: bytes of the content.
        content: whole records; ``coding`` how to read them, None for lines of JSON.
    """

    number: int
    offset: int | None
    size: int
    content: bytes
    coding: Coding | None = None
