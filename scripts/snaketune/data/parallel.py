"""The same work on many pieces in several processes; results come in the order of the pieces."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from snaketune.common.door import stop_with_parent


def in_processes(work: Callable[..., Any], tasks: Sequence[tuple], threads: int) -> Iterator[Any]:
    """Yield ``work(*task)`` for each task, in order, made by up to ``threads`` processes.

    Args:
        work: a function at the top of a module; its results travel between processes.
        tasks: the arguments of each call.
        threads: 1 works in this process.
    """
    processes = min(threads, len(tasks))
    if processes <= 1:
        yield from (work(*task) for task in tasks)
        return
    parent = f"{socket.gethostname()}:{os.getpid()}"
    # A process that is started anew inherits no threads and no locks, and ends when this one is gone.
    with ProcessPoolExecutor(processes, get_context("spawn"), stop_with_parent, (parent,)) as pool:
        yield from pool.map(work, *zip(*tasks, strict=True))
