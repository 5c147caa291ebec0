"""Structural characters of JSON outside strings, found in text of any size without parsing it.

The scan is vectorised with numpy, in the manner of simdjson: quotes that are not escaped toggle a parity, whose running
sum tells which characters are inside strings. The module is imported only for files other than JSON lines.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

QUOTE, BACKSLASH, COMMA, NEWLINE = b'"\\,\n'
OPEN, CLOSE = (ord("["), ord("{")), (ord("]"), ord("}"))
# A table for bytes.translate: 1 for each structural byte.
IS_STRUCTURAL = bytes(byte in b'"\\[]{},\n' for byte in range(256))
DEPTH_STEPS = np.zeros(256, np.int8)
DEPTH_STEPS[list(OPEN)], DEPTH_STEPS[list(CLOSE)] = 1, -1
KEY = re.compile(rb'("(?:[^"\\]|\\.)*")\s*:\s*\Z', re.DOTALL)
# The key of a list is searched within this many bytes before it.
LONGEST_KEY = 1000


@dataclass(slots=True)
class Scanner:
    """Finds the structural characters of JSON outside strings, in a text given piece by piece."""

    in_string: bool = False
    depth: int = 0
    is_escaped: bool = False

    def scan(self, piece: bytes) -> tuple[Any, Any, Any, Any]:
        """Return positions, bytes and depths (after each) of the marks, and positions of line breaks inside strings."""
        # One pass of bytes.translate instead of a comparison per structural character.
        places = np.flatnonzero(np.frombuffer(piece.translate(IS_STRUCTURAL), np.bool_))
        marks = np.frombuffer(piece, np.uint8)[places]
        quotes = (marks == QUOTE) & ~self._escaped(places, marks, len(piece))
        # The parity of the quotes so far; the state at the end of the previous piece is the starting value.
        inside = (np.cumsum(quotes, dtype=np.int32) + self.in_string) & 1
        broken = places[(inside == 1) & (marks == NEWLINE)]
        if len(inside):
            self.in_string = bool(inside[-1])
        # A closing quote has parity 0 but belongs to the string.
        outside = (inside == 0) & ~quotes
        places, marks = places[outside], marks[outside]
        depths = np.cumsum(DEPTH_STEPS[marks], dtype=np.int64) + self.depth
        if len(depths):
            self.depth = int(depths[-1])
        return places, marks, depths, broken

    def _escaped(self, places: Any, marks: Any, size: int) -> Any:
        """Return which marks follow an odd number of backslashes, and remember this for the next byte."""
        slashes = marks == BACKSLASH
        escaped = np.zeros(len(marks), bool)
        carried = self.is_escaped and len(places) > 0 and places[0] == 0
        # An empty piece decides nothing; otherwise the escape applies to its first byte, whatever that is.
        self.is_escaped = self.is_escaped and not size
        if not slashes.any():
            escaped[:1] = carried
            return escaped
        follows = np.zeros(len(marks), bool)
        follows[1:] = slashes[:-1] & (np.diff(places) == 1)
        # Start of the latest run of backslashes; a run continued from the previous piece starts before this one.
        starts = np.where(slashes & ~follows, places, -2)
        if carried:
            starts[0], follows[0] = -1, True
        begun = np.maximum.accumulate(starts)
        escaped = follows & ((places - begun) & 1 == 1)
        # Only if the piece ends in an odd run of backslashes.
        self.is_escaped = bool(slashes[-1] and places[-1] == size - 1 and not escaped[-1])
        return escaped


def ends_of_values(text: bytes) -> list[int]:
    """Return the ends (exclusive) of the top-level objects and lists of a text."""
    places, marks, depths, _ = Scanner().scan(text)
    found: list[int] = (places[(depths <= 0) & (DEPTH_STEPS[marks] == -1)] + 1).tolist()
    return found


def lists_in_object(text: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the quoted key of each list that is a member of the object in ``text``, and the start of its items."""
    places, marks, depths, _ = Scanner().scan(text)
    for place in places[(depths == 2) & (marks == OPEN[0])].tolist():
        if key := KEY.search(text[max(0, place - LONGEST_KEY) : place]):
            yield key[1], place + 1
