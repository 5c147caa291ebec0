"""Comparison of one and several GPUs with the same settings of the run."""

from dataclasses import dataclass
from typing import Any

from snaketune.plan.advice.strategies import (
    ComparedStrategy,
    Strategy,
    StrategyName,
    compare_strategies,
    memory_per_gpu,
)
from snaketune.plan.communication import Efficiency, efficiency_of
from snaketune.plan.costs.forecast import Forecast
from snaketune.plan.devices.target import Target
from snaketune.plan.memory.memory import MemoryPlan
from snaketune.plan.workload import Work

SEVERAL: tuple[StrategyName, ...] = ("ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3")
EXPECTED = ("efficiency", "speed_up", "speed_up_high", "hours", "cost_usd", "communication_seconds_per_step")


@dataclass(frozen=True, slots=True)
class Reached:
    """Fraction of the ideal speed-up that earlier runs reached with a strategy."""

    strategy: str
    efficiency: float


def strategy_table(
    seen: Forecast, target: Target, memory: MemoryPlan | None, work: Work, reached: Reached | None = None
) -> list[dict[str, Any]]:
    """Return one GPU compared with several: at the best possible speed-up and at the expected one.

    The speed-up of several GPUs of one kind is at most their number, so they can cost as much as one and never less;
    ``break_even_efficiency`` is what they would have to reach to cost the same. The expected speed-up is measured if
    there are runs on one and on several GPUs, else it follows from the data that they send (see ``communication``):
    ``speed_up`` if none of that overlaps with computation, ``speed_up_high`` if as much as possible does; None is
    unknown.

    Args:
        seen: the forecast of the run.
        target: its device.
        memory: its plan on one GPU.
        work: the run.
        reached: what earlier runs reached.
    """
    if target.is_cpu:
        return []
    count = target.gpus if target.gpus > 1 else 2
    price = target.price.usd
    alone = Strategy("single", 1, price or 1.0)
    others = [Strategy(name, count, price or 1.0) for name in SEVERAL]
    hours = seen.budget.hours * target.gpus
    return [
        {
            "strategy": row.strategy.name,
            "gpus": row.strategy.gpus,
            "speed_up_at_best": row.strategy.speed_up,
            "price_ratio": row.price_ratio,
            "break_even_efficiency": row.price_ratio / row.strategy.gpus,
            "cheaper": row.is_cheaper,
            "hours_at_best": row.hours if seen.is_timed else None,
            "cost_usd_at_best": row.cost_usd if seen.is_timed and price is not None else None,
            "memory_gb_per_gpu": _memory(memory, work, row.strategy),
            "origin": "estimated",
            **_expected(
                row, hours if seen.is_timed else None, price, *_efficiency(row, seen, target, memory, work, reached)
            ),
        }
        for row in compare_strategies(alone, hours, others)
    ]


def _memory(memory: MemoryPlan | None, work: Work, strategy: Strategy) -> float | None:
    if memory is None:
        return None
    return memory_per_gpu(memory, work.setting, strategy.name, strategy.gpus, work.layers).total


def _efficiency(
    row: ComparedStrategy,
    seen: Forecast,
    target: Target,
    memory: MemoryPlan | None,
    work: Work,
    reached: Reached | None,
) -> tuple[Efficiency | None, str]:
    """Return the efficiency of a strategy and the origin of the figure."""
    name, gpus = row.strategy.name, row.strategy.gpus
    if gpus == 1:
        return Efficiency(1.0, 1.0, 0.0), "estimated"
    if reached and reached.strategy == name and gpus == target.gpus:
        return Efficiency(reached.efficiency, reached.efficiency, None), "measured"
    rate = seen.inputs.tokens_per_second if seen.is_timed else None
    found = efficiency_of(work, memory, name, gpus, seen.inputs.accumulation, rate, target.hardware.link)
    return found, "estimated" if found else "unknown"


def _expected(
    row: ComparedStrategy, hours: float | None, price: float | None, found: Efficiency | None, origin: str
) -> dict[str, Any]:
    """Return the expected result of a strategy; None if unknown. ``hours`` are those of one GPU."""
    if found is None:
        return {**dict.fromkeys(EXPECTED), "efficiency_origin": origin}
    gpus, speed_up = row.strategy.gpus, row.strategy.gpus * found.low
    then = None if hours is None else hours / speed_up
    return {
        "efficiency": found.low,
        "speed_up": speed_up,
        "speed_up_high": gpus * found.high,
        "hours": then,
        "cost_usd": None if then is None or price is None else then * gpus * price,
        "communication_seconds_per_step": found.seconds_per_step,
        "efficiency_origin": origin,
    }
