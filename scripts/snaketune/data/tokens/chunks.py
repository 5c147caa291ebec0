"""Chunks of lines for several processes; the cuts depend on the file alone, so the output does not depend on threads.

Cutting by the number of processes instead would change the batches of the output file, and with them its digest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snaketune.data.parallel import BYTES_PER_PROCESS

CHUNK_LINES = 1000
CHUNK_BYTES = 8 << 20
SCANNED_AT_ONCE = 8 << 20
LINE_END = 10


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive lines of a file: number of the first line, number of lines, and their bytes [start, end)."""

    path: str
    first: int
    lines: int
    start: int
    end: int

    def read(self) -> list[bytes]:
        """Return the lines."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            return file.read(self.end - self.start).removesuffix(b"\n").split(b"\n")


def chunks_of(path: str | Path) -> list[Chunk]:
    """Cut a file into chunks of at most a thousand lines and 8 MiB (or a single longer line).

    The cuts depend on the content alone. Memory is eight bytes per line.
    """
    ends = _line_ends(path)
    found, first, start = [], 0, 0
    while first < len(ends):
        within = int(np.searchsorted(ends, start + CHUNK_BYTES, side="right"))
        last = max(first + 1, min(first + CHUNK_LINES, within))
        found.append(Chunk(str(path), first, last - first, start, int(ends[last - 1])))
        first, start = last, int(ends[last - 1])
    return found


def _line_ends(path: str | Path) -> np.ndarray:
    parts, size, last = [], 0, LINE_END
    with open(path, "rb", buffering=0) as file:
        while block := file.read(SCANNED_AT_ONCE):
            parts.append(np.flatnonzero(np.frombuffer(block, np.uint8) == LINE_END) + (size + 1))
            size, last = size + len(block), block[-1]
    if last != LINE_END:
        parts.append(np.asarray([size]))
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def processes_for_chunks(chunks: Sequence[Chunk], threads: int) -> int:
    """Return the number of processes worth starting for these chunks, at most ``threads``."""
    size = sum(chunk.end - chunk.start for chunk in chunks)
    return max(1, min(threads, size // BYTES_PER_PROCESS))
