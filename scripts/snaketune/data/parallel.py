"""The same work on many pieces in several processes, with results in the order of the pieces.

Nothing heavy is imported here, since every process imports this module.
"""

import multiprocessing
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from snaketune.core.cli import stop_with_parent

# Less work than this is not worth a process, which takes about half a second to start.
BYTES_PER_PROCESS = 16 << 20

Item = TypeVar("Item")
Result = TypeVar("Result")

_worker: Callable[[Any], Any]


def _start(make_worker: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...], parent: str) -> None:
    global _worker
    stop_with_parent(parent)
    _worker = make_worker(*arguments)


def _work(chunk: Any) -> Any:
    return _worker(chunk)


def ordered_results(
    make_worker: Callable[..., Callable[[Item], Result]],
    arguments: tuple[Any, ...],
    chunks: Iterable[Item],
    processes: int,
) -> Iterator[Result]:
    """Yield ``make_worker(*arguments)(chunk)`` for each chunk, in order.

    Each process creates its own worker. At most two pieces per process are in flight, so memory stays bounded however
    slow the consumer is.

    Raises:
        MemoryError: if a process was killed, as the system does when memory runs out.
    """
    if processes <= 1:
        yield from map(make_worker(*arguments), chunks)
        return
    # Forking copies the locks of native threads but not the threads themselves, and may deadlock.
    context = multiprocessing.get_context("spawn")
    initial = (make_worker, arguments, f"{socket.gethostname()}:{os.getpid()}")
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=initial) as pool:
        waiting: deque[Any] = deque()
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


def in_processes(work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], threads: int) -> Iterator[Any]:
    """Yield ``work(*task)`` for each task, in order, computed by up to ``threads`` processes.

    Args:
        work: a module-level function; its results are pickled between processes.
        tasks: the arguments of each call.
        threads: maximum number of processes; 1 works in this process.
    """
    return ordered_results(_caller, (work,), tasks, min(threads, len(tasks)))


def _caller(work: Callable[..., Any]) -> Callable[[tuple[Any, ...]], Any]:
    return lambda task: work(*task)
