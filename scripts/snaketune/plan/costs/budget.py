"""Steps, hours, dollars and disk of a run, by arithmetic that can be checked by hand.

Rates are per GPU and per second, so hours are tokens / (rate · GPUs · 3600). A measured rate already includes the time
in which the GPU waited; only an estimated one is multiplied by a utilisation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from snaketune.core.errors import PlanError

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class RunInputs:
    """The inputs of a run's time and price."""

    rows: int
    """Packed rows of one epoch."""
    tokens: int
    """Real tokens of one epoch, without padding."""
    tokens_per_second: float
    """Real tokens per second of one GPU."""
    measured: bool = False
    """Whether the throughput was measured on this machine; otherwise it is multiplied by ``utilization``."""
    utilization: float = 1.0
    epochs: float = 1.0
    max_steps: int = -1
    micro_batch: int = 1
    accumulation: int = 1
    gpus: int = 1
    price_per_gpu_hour: float | None = None
    """US dollars; None if unknown."""
    save_steps: int = 0
    """Optimizer steps between checkpoints; 0 saves only the last."""
    save_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    """All evaluations of the run together."""
    preparation_seconds: float = 0.0
    """Staging, tokenising and loading while the GPU waits."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Time, cost and disk of a run; hours are wall-clock time with all GPUs working."""

    steps: int
    saves: int
    tokens_total: int
    train_hours: float
    checkpoint_hours: float
    evaluation_hours: float
    preparation_hours: float
    cost_usd: float | None
    """For all GPUs and all hours; None if the price is unknown."""
    origin: str
    """``measured`` if the throughput was, else ``estimated``."""

    @property
    def hours(self) -> float:
        """Return the hours from start to end."""
        return self.train_hours + self.checkpoint_hours + self.evaluation_hours + self.preparation_hours

    @property
    def checkpoint_share(self) -> float:
        """Return the fraction of the time that is spent writing checkpoints."""
        return self.checkpoint_hours / self.hours


def steps_of(rows: int, micro_batch: int, accumulation: int, epochs: float = 1.0, gpus: int = 1) -> int:
    """Return the optimizer steps of a training; an incomplete batch at the end of an epoch is a step as well.

    ``ceil(ceil(rows / (micro_batch · gpus)) / accumulation)`` per epoch, as transformers' Trainer counts them.
    """
    # Two roundings, not one: a micro-batch may be incomplete, and so may the accumulation at the end of an epoch. One
    # division by the effective batch is a step short where both are.
    batches = ceil(rows / (micro_batch * gpus))
    return ceil(epochs * ceil(batches / accumulation))


def saves_of(steps: int, save_steps: int) -> int:
    """Return the checkpoints that are written: one every ``save_steps`` steps and one at the end."""
    return ceil(steps / save_steps) if save_steps else 1


def hours_of(tokens: int, tokens_per_second: float, gpus: int = 1, utilization: float = 1.0) -> float:
    """Return the hours that ``tokens`` take at a throughput per GPU.

    Raises:
        PlanError: if the rate or the utilisation is not positive.
    """
    rate = tokens_per_second * gpus * utilization
    if rate <= 0:
        raise PlanError(
            f"plan.utilization: {utilization} at {tokens_per_second} tokens per second and {gpus} GPUs means no "
            "progress: give a utilisation between 0 and 1 and a throughput above 0."
        )
    return tokens / rate / SECONDS_PER_HOUR


def budget_of(inputs: RunInputs) -> Budget:
    """Return steps, hours and cost of a run.

    Raises:
        PlanError: if the rate is not positive.
    """
    # Tokens follow the steps: with max_steps a run may end within an epoch, or go beyond it.
    whole = steps_of(inputs.rows, inputs.micro_batch, inputs.accumulation, inputs.epochs, inputs.gpus)
    steps = whole if inputs.max_steps < 0 else inputs.max_steps
    tokens = round(inputs.tokens * inputs.epochs * steps / whole)
    saves = saves_of(steps, inputs.save_steps)
    # A measured throughput already contains the idle time that the utilisation stands for.
    utilization = 1.0 if inputs.measured else inputs.utilization
    parts = {
        "train_hours": hours_of(tokens, inputs.tokens_per_second, inputs.gpus, utilization),
        "checkpoint_hours": saves * inputs.save_seconds / SECONDS_PER_HOUR,
        "evaluation_hours": inputs.evaluation_seconds / SECONDS_PER_HOUR,
        "preparation_hours": inputs.preparation_seconds / SECONDS_PER_HOUR,
    }
    price = inputs.price_per_gpu_hour
    cost = None if price is None else sum(parts.values()) * price * inputs.gpus
    origin = "measured" if inputs.measured else "estimated"
    return Budget(steps=steps, saves=saves, tokens_total=tokens, cost_usd=cost, origin=origin, **parts)


@dataclass(frozen=True, slots=True)
class RunSensitivity:
    """A changed run compared with the run as configured."""

    change: str
    budget: Budget
    hours_saved: float
    time_reduction: float
    """Share of the hours that is saved; 0.5 is half the time."""
    speed_up: float
    """Old hours over new hours; 2 is half the time."""
    usd_saved: float | None


def sensitivity(inputs: RunInputs, changes: Mapping[str, Mapping[str, Any]]) -> list[RunSensitivity]:
    """Return the effect of each single change on time and cost.

    Args:
        inputs: the run as it is.
        changes: name of a change → fields of ``RunInputs`` with their new values. A change of length, precision or
            attention goes into ``tokens_per_second`` and ``rows``: accumulation alone removes no work.
    """
    now = budget_of(inputs)
    rows = []
    for name, fields in changes.items():
        then = budget_of(replace(inputs, **fields))
        saved = None if now.cost_usd is None or then.cost_usd is None else now.cost_usd - then.cost_usd
        hours = now.hours - then.hours
        # Both are reported because they are easily confused: "60% less time" and "2.5 times as fast" are the same
        # change.
        reduction, speed_up = time_reduction_of(now.hours, then.hours), speed_up_of(now.hours, then.hours)
        rows.append(RunSensitivity(name, then, hours, reduction, speed_up, saved))
    return rows


def time_reduction_of(before: float, after: float) -> float:
    """Return the fraction of the time (or of another quantity) that is saved; 0.5 is half of it."""
    return (before - after) / before


def speed_up_of(before: float, after: float) -> float:
    """Return the speed-up; 2 is half the time."""
    return before / after


def electricity_usd(watts: float, hours: float, usd_per_kwh: float) -> float:
    """Return the cost of electricity for one's own hardware."""
    return watts / 1000 * hours * usd_per_kwh


# Loading, evaluating and saving take about as long, and no estimate for another device has them.
SHORTEST_HOURS = 1 / 60


def is_short(hours: float | None) -> bool:
    """Tell whether a training is too short for estimates on other devices to be meaningful."""
    return hours is not None and hours < SHORTEST_HOURS


def break_even_runs(hardware_usd: float, rented_usd_per_run: float, owned_usd_per_run: float) -> float | None:
    """Return the number of runs after which bought hardware has paid off: ``hardware / (rented - owned)`` per run.

    None if a run on one's own hardware costs as much as a rented one.
    """
    # Electricity is paid for every run on bought hardware, so only the difference to the rent pays the hardware off.
    saved = rented_usd_per_run - owned_usd_per_run
    return hardware_usd / saved if saved > 0 else None


def annual_usd(runs: int, usd_per_run: float, hardware_usd: float = 0.0, years_of_use: float = 1.0) -> float:
    """Return the cost of ``runs`` trainings a year; hardware is spread over the years that it is used."""
    return runs * usd_per_run + hardware_usd / years_of_use


def finishes_at(start: datetime, hours: float) -> datetime:
    """Return the clock time at the end of a run that starts at ``start``."""
    return start + timedelta(hours=hours)


def disk_gb(checkpoint_gb: float, kept: int, merged_gb: float, data_gb: float) -> float:
    """Return the peak disk usage of a run: kept checkpoints, one being written, the merged model and the data."""
    # An old checkpoint is deleted only once the new one is complete, so one more than the limit exists for a moment.
    return checkpoint_gb * (kept + 1) + merged_gb + data_gb
