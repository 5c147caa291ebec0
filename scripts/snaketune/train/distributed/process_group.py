"""The processes of one training, and the few things they have to agree on.

Everything goes over the host (gloo), so that no GPU waits; a process that trains alone agrees with itself.
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

# How long processes wait for each other: longer than a checkpoint of the largest model on a slow disk.
PATIENCE = timedelta(minutes=30)
# After this share of it the missing ones are named: before NCCL and gloo give up, each in its own words.
NAMED_AFTER = 0.9


def is_worker() -> bool:
    """Tell whether this process is one of several that train together, started by the workflow.

    Shells and pods of other tools have ``RANK`` and its kin set, too.
    """
    return WORKER in os.environ


def local_rank() -> int:
    """Return the number of this process among those of its machine."""
    return int(os.environ["LOCAL_RANK"]) if is_worker() else 0


class ProcessGroup:
    """The processes that train together: this one alone, or as many as the launcher started.

    All of them have to call each method, in the same order.

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
        """Return the team that the launcher made this process part of."""
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if is_worker() else cls()

    def meet(self, device_type: str) -> None:
        """Make the process group, on a GPU with this process's own: its communicator is made at once and there alone.

        Left to accelerate, the group would not know its GPU: barriers guess one, and a process that guesses another
        one's takes memory there.
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
        """Name the processes that do not come along while training goes on in the block."""
        if self.size == 1:
            yield
            return
        seconds = PATIENCE.total_seconds()
        self._attendance = Attendance(meeting_store(seconds), self.rank, self.size, NAMED_AFTER * seconds)
        self.barrier()  # until all have said where they are
        self._attendance.start()
        try:
            yield
        finally:
            self._attendance.stop()
            self._attendance = None

    def note(self) -> None:
        """Note that this process begins another batch."""
        if self._attendance:
            self._attendance.note()

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each value over all processes."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def any(self, flag: bool) -> bool:
        """Tell whether any process says so."""
        return self._reduce([float(flag)], dist.ReduceOp.MAX)[0] > 0

    def first(self, flag: bool) -> bool:
        """Return what the first process says: for decisions that depend on a clock."""
        return self.any(flag and self.is_main_process)

    def all(self, value: float) -> list[float]:
        """Return the value of every process, by rank."""
        return self.sum([value if rank == self.rank else 0.0 for rank in range(self.size)])

    def barrier(self) -> None:
        """Return when every process has come here.

        Raises:
            TrainingError: naming those that did not come in time, or that ended.
        """
        if self.size > 1:
            # Of gloo alone: the first process learns who is missing, where a plain barrier only times out.
            with self._explaining_absence():
                dist.monitored_barrier(self._talk(), wait_all_ranks=True)

    def destroy(self) -> None:
        """Part when every process has come here: threads that still talk would abort a process that ends."""
        if self.size > 1:
            self.barrier()
            dist.destroy_process_group()
            self._group = None

    def _reduce(self, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(list(values), dtype=torch.float64)
        with self._explaining_absence():
            dist.all_reduce(tensor, op=operation, group=self._talk())
        return tensor.tolist()

    def _talk(self) -> dist.ProcessGroup:
        if self._group is None:
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
    """Return which processes did not answer, from what gloo says."""
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
    """Return what of a sharded model was trained, by name, in memory; every process takes part.

    Args:
        model: all of its weights when it has no adapter.
        keep: whether this process wants the result; otherwise it is empty.
        assembled: puts a weight together.
    """
    trained = [(name, each) for name, each in model.named_parameters(remove_duplicate=False) if each.requires_grad]
    tensors: dict[int, torch.Tensor] = {}
    for _, weight in trained:
        if id(weight) not in tensors:
            tensor = assembled(weight).detach()
            tensors[id(weight)] = tensor.cpu() if keep else tensor.new_empty(0)
    return {name: tensors[id(weight)] for name, weight in trained} if keep else {}
