"""Text from a user's files, made safe for Markdown and for front matter."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST_TEXT = 120
BACKTICK, BAR = "`", "|"


def one_line(value: Any, limit: int = LONGEST_TEXT) -> str:
    """Return ``value`` as one line of at most ``limit`` printable characters."""
    printable = "".join(sign if sign.isprintable() else " " for sign in str(value))
    line = " ".join(printable.split())
    return line if len(line) <= limit else line[: limit - 1] + "\u2026"


def code(value: Any) -> str:
    """Return ``value`` as a code span, in which Markdown and HTML have no effect and bars do not end a table cell."""
    line = one_line(value).replace(BACKTICK, "'").replace(BAR, "\u00a6")
    return f"{BACKTICK}{line}{BACKTICK}" if line else "(empty)"


def number_text(value: float | int | None) -> str:
    """Return integers with thousands separators and other numbers with four significant digits."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "unknown"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def signed_number(value: float) -> str:
    """Return a difference with its sign and four significant digits."""
    return f"{value:+.4g}" if value else "0"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, none without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines] if lines else []
