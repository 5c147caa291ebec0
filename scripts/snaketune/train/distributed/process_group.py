"""The processes of one training and their control messages: stop requests, counts, barriers.

Messages go over the host (gloo), so that no GPU waits for them; with a single process every operation is local.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from snaketune.core.environment import WORKER
from snaketune.core.errors import TrainingError
from snaketune.train.distributed.attendance import Attendance, meeting_store

# Time-out of collective operations: longer than writing a checkpoint of the largest model to a slow disk.
PATIENCE = timedelta(minutes=30)
# Missing processes are named after this fraction of it, before NCCL and gloo abort with their own messages.
NAMED_AFTER = 0.9


def is_worker() -> bool:
    """Tell whether this process is one of several that train together, started by the workflow.

    ``RANK`` and ``WORLD_SIZE`` do not tell: other tools set them in shells and pods, too.
    """
    return WORKER in os.environ


def local_rank() -> int:
    """Return the rank of this process on its machine."""
    return int(os.environ["LOCAL_RANK"]) if is_worker() else 0


class ProcessGroup:
    """The processes that train together: this one alone, or as many as the launcher started.

    Methods are collective: all processes have to call them, in the same order.

    Attributes:
        rank: number of this process.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        self._group: dist.ProcessGroup | None = None
        self._attendance: Attendance | None = None

    @classmethod
    def of_environment(cls) -> "ProcessGroup":
        """Return the group that the launcher started this process in."""
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if is_worker() else cls()

    def meet(self, device_type: str) -> None:
        """Initialise torch's process group, bound to this process's own GPU if it has one.

        Left to accelerate, the group would not know its GPU: barriers would guess one, and a process that guesses
        another's GPU allocates memory there.
        """
        if self.size == 1 or dist.is_initialized():
            return
        if device_type == "cpu":
            dist.init_process_group("gloo", timeout=PATIENCE)
        else:
            own = torch.device(device_type, local_rank())
            dist.init_process_group("cuda:nccl,cpu:gloo", timeout=PATIENCE, device_id=own)

    @contextmanager
    def attending(self) -> Iterator[None]:
        """While the block trains, watch for processes that fall behind, and name them."""
        if self.size == 1:
            yield
            return
        seconds = PATIENCE.total_seconds()
        self._attendance = Attendance(meeting_store(seconds), self.rank, self.size, NAMED_AFTER * seconds)
        self.barrier()  # until all have published their count
        self._attendance.start()
        try:
            yield
        finally:
            self._attendance.stop()
            self._attendance = None

    def note(self) -> None:
        """Count a batch that this process begins."""
        if self._attendance:
            self._attendance.note()

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each value over all processes."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process."""
        return self._reduce([float(flag)], dist.ReduceOp.MAX)[0] > 0

    def first(self, flag: bool) -> bool:
        """Return the flag of the main process: for decisions that depend on a clock."""
        return self.any(flag and self.is_main_process)

    def all(self, value: float) -> list[float]:
        """Return the value of every process, by rank."""
        # A sum with zeros elsewhere gathers the values with the one collective that is used anyway.
        return self.sum([value if rank == self.rank else 0.0 for rank in range(self.size)])

    def barrier(self) -> None:
        """Return when every process has reached the barrier.

        Raises:
            TrainingError: naming the processes that timed out or ended.
        """
        if self.size > 1:
            # gloo's monitored barrier tells rank 0 which ranks are missing; a plain barrier only times out.
            with self._explaining_absence():
                dist.monitored_barrier(self._talk(), wait_all_ranks=True)

    def destroy(self) -> None:
        """Destroy the process group after a barrier: threads that still communicate would abort an exiting process."""
        if self.size > 1:
            self.barrier()
            dist.destroy_process_group()
            self._group = None

    def _reduce(self, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(values)
        # float64 represents token counts up to 2^53 exactly.
        tensor = torch.tensor(list(values), dtype=torch.float64)
        with self._explaining_absence():
            dist.all_reduce(tensor, op=operation, group=self._talk())
        return tensor.tolist()

    def _talk(self) -> dist.ProcessGroup:
        if self._group is None:
            # Created on first use, which all processes reach together.
            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return self._group

    @contextmanager
    def _explaining_absence(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise TrainingError(
                f"process {self.rank} of {self.size} timed out waiting for {_missing(str(error))}: its error is shown "
                "above or in its node's log; run the same command to resume from the last checkpoint."
            ) from None


def _missing(reason: str) -> str:
    """Return the processes that did not answer, from gloo's message."""
    found = re.search(r"[Rr]anks? ([\d, ]*\d)(?= failed to)", reason)
    return f"process {found[1]}" if found else f"another process ({' '.join(reason.split())[:200]})"


ALONE = ProcessGroup()


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a sharded tensor, or a norm over sharded gradients, as an ordinary tensor."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather_state_dict(
    model: torch.nn.Module, keep: bool, assembled: Callable[[torch.Tensor], torch.Tensor] = full_tensor
) -> dict[str, torch.Tensor]:
    """Return the trained weights of a sharded model by name, on the CPU; a collective operation.

    Args:
        model: the model; without an adapter all of its weights are trained.
        keep: whether this process gets the result; otherwise it is empty.
        assembled: gathers the full tensor of a weight.
    """
    trained = [(name, each) for name, each in model.named_parameters(remove_duplicate=False) if each.requires_grad]
    tensors: dict[int, torch.Tensor] = {}
    for _, weight in trained:
        if id(weight) not in tensors:
            tensor = assembled(weight).detach()
            tensors[id(weight)] = tensor.cpu() if keep else tensor.new_empty(0)
    return {name: tensors[id(weight)] for name, weight in trained} if keep else {}
