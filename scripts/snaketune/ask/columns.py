"""Texts side by side in a terminal, redrawn while they grow."""

import shutil
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import TextIO

GAP = " | "
NARROWEST = 24


def side_by_side(titles: Sequence[str], texts: Sequence[str], width: int) -> list[str]:
    """Return the lines of a table of one row: a title over each text; below each other where it is narrow."""
    column = (width - len(GAP) * (len(texts) - 1)) // len(texts)
    if column < NARROWEST:
        return [line for title, text in zip(titles, texts, strict=True) for line in (f"{title}:", *wrap(text, width))]
    blocks = [[title, "-" * column, *wrap(text, column)] for title, text in zip(titles, texts, strict=True)]
    return [GAP.join(f"{cell or '':{column}}" for cell in row).rstrip() for row in zip_longest(*blocks, fillvalue="")]


def wrap(text: str, width: int) -> list[str]:
    """Return the lines of a text, none wider than ``width``; its own line breaks stay, control characters do not."""
    plain = "".join(mark if mark.isprintable() or mark == "\n" else " " for mark in text.expandtabs(4))
    lines = [textwrap.wrap(line, width, drop_whitespace=False, replace_whitespace=False) for line in plain.split("\n")]
    return [part.rstrip() for line in lines for part in (line or [""])]


class Display:
    """Shows growing texts on a stream: redrawn in place on a terminal, once at the end elsewhere.

    Args:
        titles: one for each text.
        stream: where to.
    """

    def __init__(self, titles: Sequence[str], stream: TextIO):
        self._titles, self._stream, self._drawn = titles, stream, 0

    def show(self, texts: Sequence[str]) -> None:
        """Draw what there is so far."""
        if self._stream.isatty():
            size = shutil.get_terminal_size()
            self._draw(side_by_side(self._titles, texts, size.columns - 1)[-(size.lines - 2) :])

    def finish(self, texts: Sequence[str]) -> list[str]:
        """Draw the final texts in full and return their lines."""
        lines = side_by_side(self._titles, texts, shutil.get_terminal_size().columns - 1)
        self._draw(lines)
        self._drawn = 0
        return lines

    def _draw(self, lines: Sequence[str]) -> None:
        back = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
        self._stream.write(back + "\n".join(lines) + "\n")
        self._stream.flush()
        self._drawn = len(lines)
