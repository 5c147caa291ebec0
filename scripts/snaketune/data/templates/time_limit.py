"""A bound on the time of work in the main thread, by the system's interval timer."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from snaketune.core.errors import DataError


@contextmanager
def time_limit(seconds: float, sentence: Callable[[], str]) -> Iterator[None]:
    """Raise DataError with ``sentence()`` if the block takes longer than ``seconds``.

    Outside the main thread, and where the system has no interval timer, there is no bound.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def end(*_: Any) -> None:
        raise DataError(sentence())

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
