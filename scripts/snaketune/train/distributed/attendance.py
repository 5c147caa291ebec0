"""Which of several processes does not come along, said in one sentence before everything is torn down.

A process that hangs makes all others wait inside of a collective operation. NCCL ends that after a time-out by
aborting the process, with pages of text that name no missing rank. So each process writes how far it is to the store
that they met at, from a thread of its own, and one of those that wait reads who is behind.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

# A look every so many parts of the patience.
LOOKS = 20


class Attendance:
    """Notes how far this process is, and names those that others wait for.

    Args:
        store: shared by the processes, with ``set`` and ``get``.
        rank, size: of this process and the number of all.
        patience: seconds without progress that are too many.
        clock: seconds.
        end: called with a sentence, empty for all but one of the processes; does not return.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        patience: float,
        end: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._store, self._rank, self._size, self._patience, self._clock = store, rank, size, patience, clock
        self._end = end or end_process
        self._count, self._since = 0, clock()
        self._stopped = threading.Event()
        self._publish()
        self._thread = threading.Thread(target=self._watch, name="attendance", daemon=True)

    def note(self) -> None:
        """Note that this process begins another batch."""
        self._count, self._since = self._count + 1, self._clock()

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no longer: what comes now takes as long as it takes."""
        self._stopped.set()
        self._thread.join()

    def look(self) -> None:
        """Publish how far this process is; after too long a wait, end it, and all with it."""
        self._publish()
        waited = self._clock() - self._since
        if waited < self._patience:
            return
        counts = [int(self._store.get(_key(rank))) for rank in range(self._size)]
        waiting = [rank for rank, count in enumerate(counts) if count == max(counts)]
        if self._rank == waiting[0]:
            missing = [rank for rank in range(self._size) if rank not in waiting]
            self._end(absence(self._rank, self._size, missing, waited))
        elif waited > 2 * self._patience:  # nobody who waits could say it: this one is late itself
            self._end("")

    def _publish(self) -> None:
        self._store.set(_key(self._rank), str(self._count))

    def _watch(self) -> None:
        while not self._stopped.wait(self._patience / LOOKS):
            try:
                self.look()
            except (dist.DistError, RuntimeError):
                return  # the process with the store has ended, which the launcher sees, and ends this one


def _key(rank: int) -> str:
    return f"attendance/{rank}"


def absence(rank: int, size: int, missing: Sequence[int], seconds: float) -> str:
    """Return the sentence on processes that did not come along; on the network where all came."""
    after = f"process {rank} of {size} waited for {seconds / 60:.1f} minutes"
    again = "run the same command to resume from the last checkpoint."
    if not missing:
        return (
            f"{after} with all other processes present, but their data does not arrive: the connection between the "
            f"GPUs or nodes has failed (NCCL_DEBUG=INFO shows where); {again}"
        )
    who = f"process{'es' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
    return f"{after} for {who}, which did not reach the same batch: its node's log may say why; {again}"


def end_process(sentence: str) -> None:
    """End this process whatever its other threads wait for; the launcher then ends the others."""
    if sentence:
        print(f"TrainingError: {sentence}", file=sys.stderr, flush=True)
    os._exit(1)


def meeting_store(patience: float) -> dist.Store:
    """Return a connection of its own to the store that the launcher's processes meet at."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # Not the one of the process group: whoever waits in it keeps others from using it.
    return dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=patience))
