"""Lines that are no records: set aside with place and reason, counted, and too many of them stop the run."""

import shutil
from collections import Counter
from pathlib import Path
from typing import IO

import orjson

from snaketune.common.atomic import writing

RAW_CHARACTERS = 2000


class Refusal(Exception):
    """A line cannot become a record: a reason code and a readable detail."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Quarantine:
    """Writes refused lines to ``file`` and counts them by reason."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.reasons: Counter[str] = Counter()
        self.first = ""

    def add(self, source: int, path: str, line: int, offset: int, content: bytes, refusal: Refusal) -> None:
        """Set a line aside.

        Args:
            source: index of the source, ``path`` its name.
            line: line number, from 1.
            offset: byte offset of the line's first byte in the (decompressed) file.
            content: the raw line; its first 2,000 characters are kept, invalid bytes replaced.
            refusal: why.
        """
        self.reasons[refusal.reason] += 1
        self.first = self.first or f"{path} line {line}: {refusal.reason}, {refusal.detail}"
        # A character has at most four bytes, so this much is enough; the cut may split only one that is not kept.
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
        self._file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))

    @property
    def total(self) -> int:
        """The number of lines set aside."""
        return self.reasons.total()

    def counts(self) -> str:
        """Return the counts per reason as words, the most frequent first."""
        ordered = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{count} {reason}" for reason, count in ordered)

    def keep_copy(self, path: str | Path) -> None:
        """Copy what was written so far to ``path``, for a run that is about to stop."""
        self._file.flush()
        with open(self._file.name, "rb") as written, writing(path) as copy:
            shutil.copyfileobj(written, copy)
