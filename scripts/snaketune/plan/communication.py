"""Communication volume of several GPUs in an optimizer step, and the scaling efficiency that remains.

In a ring of n GPUs each sends 2(n-1)/n of the data for an all-reduce, and half of that for an all-gather or a
reduce-scatter (Patarasuk and Yuan 2009). Data parallel (DDP) all-reduces the gradients once per optimizer step.
Sharding (FSDP, ZeRO stage 3, arXiv:1910.02054) gathers the weights of every layer in the forward and in the backward
pass and reduce-scatters the gradients, for each micro-batch. How much of this overlaps with computation is unknown
before a run, hence a range from none to all of it.
"""

from dataclasses import dataclass

from snaketune.plan.advice.strategies import SHARDED, StrategyName
from snaketune.plan.memory.memory import DTYPE_BYTES, MemoryPlan
from snaketune.plan.workload import Work

LINK_SHARE = 0.7
"""Fraction of the link's bandwidth that a collective is assumed to reach; not measured."""


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Fraction of the ideal speed-up that several GPUs reach."""

    low: float
    """If no communication overlaps with computation."""
    high: float
    """If as much of it as possible does."""
    seconds_per_step: float | None
    """Communication time in an optimizer step; None if not estimated."""


def bytes_per_step(work: Work, memory: MemoryPlan, name: StrategyName, gpus: int, accumulation: int) -> float:
    """Return the bytes that each GPU sends in an optimizer step.

    Args:
        work: the run.
        memory: its plan on one GPU, whose weights are gathered.
        name: the strategy.
        gpus: number of GPUs.
        accumulation: micro-batches of a step.
    """
    width = DTYPE_BYTES[work.setting.adapter.dtype if work.setting.adapter else work.setting.weight_dtype]
    gradients, share = work.trained * width, (gpus - 1) / gpus
    if name not in SHARDED:
        # Once per step, not per micro-batch: with accumulation DDP all-reduces only in the last one.
        return 2 * share * gradients
    # Weights twice, for forward and backward pass; gradients once.
    return accumulation * share * (2 * memory.weights * 1e9 + gradients)


def efficiency_of(
    work: Work,
    memory: MemoryPlan | None,
    name: StrategyName,
    gpus: int,
    accumulation: int,
    tokens_per_second: float | None,
    link: float | None,
) -> Efficiency | None:
    """Return the scaling efficiency of several GPUs; None if throughput, link or memory is unknown.

    Args:
        work: the run.
        memory: its plan on one GPU.
        name: the strategy.
        gpus: number of GPUs.
        accumulation: micro-batches of a step.
        tokens_per_second: of one GPU alone.
        link: between two of them, GB/s in one direction.
    """
    if memory is None or not tokens_per_second or not link:
        return None
    tokens = work.tokens / work.rows * work.setting.micro_batch * accumulation
    computing = tokens / tokens_per_second
    # 1e9: link speeds are in GB/s of 10^9 bytes.
    talking = bytes_per_step(work, memory, name, gpus, accumulation) / (link * 1e9 * LINK_SHARE)
    return Efficiency(computing / (computing + talking), computing / max(computing, talking), talking)
