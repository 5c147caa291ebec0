"""The processes of one training, and the few things they have to agree on.

Everything goes over the host (gloo), so that no GPU waits; a process that trains alone agrees with itself.
"""

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist

from snaketune.common.variables import WORKER


def is_worker() -> bool:
    """Tell whether this process is one of several that train together, started by the workflow.

    Shells and pods of other tools have ``RANK`` and its kin set, too.
    """
    return WORKER in os.environ


def local_rank() -> int:
    """Return the number of this process among those of its machine."""
    return int(os.environ["LOCAL_RANK"]) if is_worker() else 0


class Team:
    """The processes that train together: this one alone, or as many as the launcher started.

    All of them have to call each method, in the same order.

    Attributes:
        rank: number of this process.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        self._group: dist.ProcessGroup | None = None

    @classmethod
    def of_environment(cls) -> "Team":
        """Return the team that the launcher made this process part of."""
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if is_worker() else cls()

    @property
    def is_first(self) -> bool:
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
        return self.any(flag and self.is_first)

    def all(self, value: float) -> list[float]:
        """Return the value of every process, by rank."""
        return self.sum([value if rank == self.rank else 0.0 for rank in range(self.size)])

    def wait(self) -> None:
        """Return when every process has come here."""
        self._reduce([0.0], dist.ReduceOp.SUM)

    def disband(self) -> None:
        """Part when every process has come here: threads that still talk would abort a process that ends."""
        if self.size > 1:
            self.wait()
            dist.destroy_process_group()
            self._group = None

    def _reduce(self, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(values)
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        tensor = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(tensor, op=operation, group=self._group)
        return tensor.tolist()


ALONE = Team()
