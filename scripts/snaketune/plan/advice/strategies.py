"""One GPU or several: what each strategy needs per GPU, how long it takes and whether it pays.

Several GPUs shorten a run; they make it cheaper only if the speed-up exceeds the ratio of the hourly prices. All
strategies are compared with the same settings of the run, so that none gets optimisations that the others lack.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from snaketune.plan.memory.memory import DTYPE_BYTES, STATE_VALUES, MemoryPlan
from snaketune.plan.memory_settings import MemorySetting

StrategyName = Literal["single", "ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3"]
SHARDED: tuple[StrategyName, ...] = ("fsdp", "deepspeed_zero3")
"""Strategies that split weights, gradients and optimizer over the GPUs; DDP keeps a whole copy on each."""
DEEPSPEED: tuple[StrategyName, ...] = ("deepspeed_zero2", "deepspeed_zero3")
GATHERED_LAYERS = 2
SPLIT_BY_STRATEGY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(SHARDED, ("weights", "adapter", "gradients", "optimizer")),
    "deepspeed_zero2": ("gradients", "optimizer"),
}
"""The parts of memory that each strategy shards."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to use GPUs."""

    name: StrategyName
    gpus: int
    price_per_gpu_hour: float
    """US dollars."""
    efficiency: float = 1.0
    """Fraction of the ideal speed-up; 1 for the reference's kind of GPU without communication."""
    gpu_speed: float = 1.0
    """Speed of one of these GPUs relative to the GPU of the reference."""

    @property
    def speed_up(self) -> float:
        """Return how many times faster than the single reference GPU."""
        return self.gpus * self.gpu_speed * (self.efficiency if self.gpus > 1 else 1.0)


@dataclass(frozen=True, slots=True)
class ComparedStrategy:
    """A strategy compared with the single reference GPU."""

    strategy: Strategy
    hours: float
    cost_usd: float
    price_ratio: float
    """Ratio of its hourly price to the reference's."""

    @property
    def is_cheaper(self) -> bool:
        """Tell whether a run costs less: the speed-up exceeds the price ratio."""
        return self.strategy.speed_up > self.price_ratio

    def sentence(self) -> str:
        """Return the verdict with both numbers of the rule."""
        speed_up, verdict = self.strategy.speed_up, "cheaper" if self.is_cheaper else "not cheaper"
        return (
            f"{self.strategy.gpus} x {self.strategy.name}: {speed_up:.2f} times as fast at {self.price_ratio:.2f} times"
            f" the hourly price is {verdict} ({self.hours:.1f} h, ${self.cost_usd:.2f})"
        )


def compare_strategies(reference: Strategy, reference_hours: float, others: list[Strategy]) -> list[ComparedStrategy]:
    """Return the reference and the other strategies, cheapest first, fastest first where they cost the same.

    Args:
        reference: one GPU, whose speed is 1.
        reference_hours: what the run takes on it.
        others: the strategies to compare it with.
    """
    price = reference.gpus * reference.price_per_gpu_hour
    rows = []
    for strategy in (reference, *others):
        hours = reference_hours * reference.speed_up / strategy.speed_up
        total = strategy.gpus * strategy.price_per_gpu_hour
        rows.append(ComparedStrategy(strategy, hours, hours * total, total / price))
    return sorted(rows, key=lambda row: (row.cost_usd, row.hours))


def memory_per_gpu(
    plan: MemoryPlan, setting: MemorySetting, name: StrategyName, gpus: int, layers: int, offload: str = "none"
) -> MemoryPlan:
    """Return the memory plan of each of several GPUs.

    Sharding divides weights, adapter, gradients and optimizer by the number of GPUs (ZeRO stage 3, arXiv 1910.02054;
    stage 2 leaves weights and adapter whole); activations, head and workspace belong to each GPU's own rows and stay.
    Of sharded weights, the layer being computed and the next one are complete. What is offloaded is not on the GPU: the
    optimizer's state and, with stage 3, the weights.

    Args:
        plan: of the run on one GPU.
        setting: the run.
        name: the strategy.
        gpus: number of GPUs.
        layers: of the model.
        offload: ``train.offload``.
    """
    held = _held_by_deepspeed(plan, setting) if name in DEEPSPEED and setting.autocast else plan
    parts = {part: getattr(held, part) / gpus for part in SPLIT_BY_STRATEGY.get(name, ())}
    if name in SHARDED and gpus > 1:
        parts["workspace"] = held.workspace + GATHERED_LAYERS * held.weights / layers
    if offload != "none":
        away = ("optimizer", "weights", "adapter") if name in SHARDED else ("optimizer",)
        parts |= dict.fromkeys(away, 0.0)
    return replace(held, **parts)


def _held_by_deepspeed(plan: MemoryPlan, setting: MemorySetting) -> MemoryPlan:
    """Return the plan under DeepSpeed's mixed precision.

    What is trained and its gradients have 16 bits, and the optimizer keeps float32 weights beside float32 states (ZeRO,
    section 3.1: 2 + 2 + 12 bytes per weight).
    """
    width = DTYPE_BYTES[setting.adapter.dtype if setting.adapter else setting.weight_dtype]
    per_byte = plan.gradients / width
    trained = "adapter" if setting.adapter else "weights"
    states = plan.optimizer * 4 / width if setting.optimizer in STATE_VALUES else plan.optimizer
    halves: dict[str, Any] = {trained: 2 * per_byte, "gradients": 2 * per_byte}
    return replace(plan, **halves, optimizer=states + 4 * per_byte)
