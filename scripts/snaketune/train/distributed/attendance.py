"""Names the process that the others wait for, in one sentence, before NCCL's time-out aborts them all.

A process that hangs makes all others wait inside a collective operation. NCCL ends that after a time-out by aborting
the process, with pages of output that name no missing rank. Therefore a thread of each process publishes its batch
count to the rendezvous store, and one of the waiting processes reads which ranks are behind.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

# Checks within one patience.
CHECKS_PER_WAIT = 20


class Attendance:
    """Publishes the progress of this process, and names the processes that the others wait for.

    Args:
        store: shared by the processes, with ``set`` and ``get``.
        rank, size: rank of this process and number of processes.
        patience: seconds without progress after which the training is ended.
        clock: monotonic seconds.
        end: called with a sentence, empty in all processes but one; does not return.
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
        """Count a batch that this process begins."""
        self._count, self._since = self._count + 1, self._clock()

    def start(self) -> None:
        """Start checking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop checking: what follows may take any time."""
        self._stopped.set()
        self._thread.join()

    def check(self) -> None:
        """Publish the progress of this process; end it after too long a wait, and the launcher ends the rest."""
        self._publish()
        waited = self._clock() - self._since
        if waited < self._patience:
            return
        counts = [int(self._store.get(_key(rank))) for rank in range(self._size)]
        # Whoever waits in a collective has counted one batch more than the process that never reached it.
        waiting = [rank for rank, count in enumerate(counts) if count == max(counts)]
        # One of the waiting processes reports, or the log would have the sentence once per process.
        if self._rank == waiting[0]:
            missing = [rank for rank in range(self._size) if rank not in waiting]
            self._end(absence(self._rank, self._size, missing, waited))
        elif waited > 2 * self._patience:  # the reporting process has not ended this one: end without a sentence
            self._end("")

    def _publish(self) -> None:
        self._store.set(_key(self._rank), str(self._count))

    def _watch(self) -> None:
        while not self._stopped.wait(self._patience / CHECKS_PER_WAIT):
            try:
                self.check()
            except (dist.DistError, RuntimeError):
                return  # the process with the store has ended, which the launcher sees, and ends this one


def _key(rank: int) -> str:
    return f"attendance/{rank}"


def absence(rank: int, size: int, missing: Sequence[int], seconds: float) -> str:
    """Return the sentence that names the missing processes, or the network if all are present."""
    after = f"process {rank} of {size} waited for {seconds / 60:.1f} minutes"
    again = "run the same command to resume from the last checkpoint."
    if not missing:
        return (
            f"{after} with all other processes present, but their data do not arrive: the connection between the "
            f"GPUs or nodes has failed (NCCL_DEBUG=INFO shows where); {again}"
        )
    who = f"process{'es' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
    return f"{after} for {who}, which did not reach the same batch: its node's log may say why; {again}"


def end_process(sentence: str) -> None:
    """End this process even though its main thread is blocked; the launcher then ends the others."""
    if sentence:
        print(f"TrainingError: {sentence}", file=sys.stderr, flush=True)
    os._exit(1)


def meeting_store(patience: float) -> dist.Store:
    """Return a separate connection to the launcher's rendezvous store."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # Not the process group's connection: a thread that blocks in it keeps others from using it.
    return dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=patience))
