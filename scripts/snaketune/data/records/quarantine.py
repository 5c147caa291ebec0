"""The quarantine: lines that cannot become records, kept with place and reason; too many of them stop the run."""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import orjson

from snaketune.core.atomic import writing

RAW_CHARACTERS = 2000


class RefusedLine(Exception):
    """A line that cannot become a record, with a reason code and a readable detail."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def entry_of(source: int, path: str, line: int, offset: int | None, content: bytes, refusal: RefusedLine) -> bytes:
    """Return the quarantine entry of a refused line.

    Args:
        source: index of the source.
        path: the user's name of the source.
        line: number of the line, item or row, from 1.
        offset: byte offset of the line's first byte in the (decompressed) file; None for rows of a table.
        content: the raw line; its first 2,000 characters are kept, with invalid bytes replaced.
        refusal: the reason.
    """
    # A character has at most four bytes, so these suffice; the cut can only split a character that is not kept.
    text = content[: 4 * RAW_CHARACTERS + 4].decode("utf-8", "replace")
    entry = {
        "source": source,
        "path": path,
        "line": line,
        "offset": offset,
        "reason": refusal.reason,
        "detail": refusal.detail,
        "raw": text.rstrip("\r\n")[:RAW_CHARACTERS],
    }
    return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)


class Quarantine:
    """Writes refused lines to ``file`` and counts them by reason."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.reasons: Counter[str] = Counter()
        self.first = ""

    def add(self, entries: bytes, reasons: Mapping[str, int], first: str) -> None:
        """Add entries, their counts by reason, and a description of the first of them."""
        self._file.write(entries)
        self.reasons.update(reasons)
        self.first = self.first or first

    @property
    def total(self) -> int:
        """The number of quarantined lines."""
        return self.reasons.total()

    def counts(self) -> str:
        """Return the counts per reason as words, the most frequent first."""
        ordered = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{count} {reason}" for reason, count in ordered)

    def keep_copy(self, path: str | Path) -> None:
        """Copy the entries written so far to ``path``, for a run that is about to stop."""
        self._file.flush()
        with open(self._file.name, "rb") as written, writing(path) as copy:
            shutil.copyfileobj(written, copy)
