"""Work on the lines of a file in several processes, cut and put together so that their number cannot be told."""

import multiprocessing
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from snaketune.common.door import stop_with_parent

CHUNK_LINES = 1000
CHUNK_BYTES = 8 << 20
READ_BYTES = 8 << 20
# Below this a second process costs more than it brings: starting one takes about half a second.
BYTES_PER_PROCESS = 16 << 20
LINE_END = 10

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive lines of a file: number of the first one, how many, and their bytes [start, end)."""

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
    """Cut a file into chunks of at most a thousand lines and, unless a line is longer, of 8 MiB.

    The cuts depend on the content alone. Memory holds eight bytes for each line.
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
        while block := file.read(READ_BYTES):
            parts.append(np.flatnonzero(np.frombuffer(block, np.uint8) == LINE_END) + (size + 1))
            size, last = size + len(block), block[-1]
    if last != LINE_END:
        parts.append(np.asarray([size]))
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def processes_for(chunks: Sequence[Chunk], threads: int) -> int:
    """Return how many processes are worth starting for these chunks, at most ``threads``."""
    size = sum(chunk.end - chunk.start for chunk in chunks)
    return max(1, min(threads, size // BYTES_PER_PROCESS))


_worker: Callable[[Any], Any]


def _start(make_worker: Callable[..., Callable[[Any], Any]], arguments: tuple, parent: str) -> None:
    global _worker
    stop_with_parent(parent)
    _worker = make_worker(*arguments)


def _work(chunk: Any) -> Any:
    return _worker(chunk)


def ordered_results(
    make_worker: Callable[..., Callable[[Item], Result]],
    arguments: tuple,
    chunks: Iterable[Item],
    processes: int,
) -> Iterator[Result]:
    """Yield ``make_worker(*arguments)(chunk)`` for each chunk, in order.

    With several processes each makes its own worker; a few results wait in memory, however slow the reader is.

    Raises:
        MemoryError: if the system ended a process, which it does when memory is short.
    """
    if processes <= 1:
        yield from map(make_worker(*arguments), chunks)
        return
    context = multiprocessing.get_context("spawn")  # a forked copy of native threads would hang
    initial = (make_worker, arguments, f"{socket.gethostname()}:{os.getpid()}")
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=initial) as pool:
        waiting: deque = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_work, chunk))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise MemoryError from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
