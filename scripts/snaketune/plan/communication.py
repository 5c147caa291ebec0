"""What several GPUs say to each other in a step, and how much of their speed is left.

Rings of n GPUs move 2(n-1)/n of the data for a sum over all of them, and half of that to gather or to scatter it.
Data parallel (DDP) sums the gradients once per optimizer step. Sharding (FSDP, ZeRO stage 3, arXiv 1910.02054) gathers
the weights of every layer in the forward and in the backward pass and scatters the gradients, for each micro-batch.
How much of it hides behind computing is not known before a run: between all and none of it.
"""

from dataclasses import dataclass

from snaketune.plan.advice.strategies import SHARDED, StrategyName
from snaketune.plan.memory.memory import WIDTH, MemoryPlan
from snaketune.plan.workload import Work

LINK_SHARE = 0.7
"""Share of the link's rate that a collective is taken to reach: assumed, nothing measured."""


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Share of the ideal speed-up that several GPUs reach."""

    low: float
    """If nothing of the communication hides behind computing."""
    high: float
    """If all of it does that can."""
    seconds_per_step: float | None
    """Communication time in an optimizer step; None if not estimated."""


def bytes_per_step(work: Work, memory: MemoryPlan, name: StrategyName, gpus: int, accumulation: int) -> float:
    """Return what each GPU sends in an optimizer step.

    Args:
        work: the run.
        memory: its plan on one GPU, whose weights are what is gathered.
        name, gpus: the strategy.
        accumulation: micro-batches of a step.
    """
    width = WIDTH[work.setting.adapter.dtype if work.setting.adapter else work.setting.weight_dtype]
    gradients, share = work.trained * width, (gpus - 1) / gpus
    if name not in SHARDED:
        return 2 * share * gradients
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
    """Return how much of the speed of several GPUs is left, None if the rate, the link or the memory is unknown.

    Args:
        work, memory, name, gpus, accumulation: as in ``bytes_per_step``.
        tokens_per_second: of one GPU alone.
        link: between two of them, GB/s in one direction.
    """
    if memory is None or not tokens_per_second or not link:
        return None
    tokens = work.tokens / work.rows * work.setting.micro_batch * accumulation
    computing = tokens / tokens_per_second
    talking = bytes_per_step(work, memory, name, gpus, accumulation) / (link * 1e9 * LINK_SHARE)
    return Efficiency(computing / (computing + talking), computing / max(computing, talking), talking)
