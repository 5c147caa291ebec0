"""The same work on many pieces in several processes; results come in the order of the pieces."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from snaketune.data.chunks import ordered_results


def in_processes(work: Callable[..., Any], tasks: Sequence[tuple], threads: int) -> Iterator[Any]:
    """Yield ``work(*task)`` for each task, in order, made by up to ``threads`` processes.

    Args:
        work: a function at the top of a module; its results travel between processes.
        tasks: the arguments of each call.
        threads: 1 works in this process.
    """
    return ordered_results(_caller, (work,), tasks, min(threads, len(tasks)))


def _caller(work: Callable[..., Any]) -> Callable[[tuple], Any]:
    return lambda task: work(*task)
