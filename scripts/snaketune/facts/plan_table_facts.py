"""Rows of the tables in plan.json; None is unknown, hours are those of training alone, GB are 10^9 bytes."""

from typing import Any, Literal, TypedDict


class Afterwards(TypedDict):
    """Something that comes after training."""

    what: str
    seconds: float | None
    origin: str


class AdviceRow(TypedDict):
    """A choice with its reason."""

    topic: str
    choice: str
    reason: str


class CostRow(TypedDict):
    """A cost in US dollars and how it is known."""

    name: str
    usd: float | None
    origin: str


FitCell = TypedDict(
    "FitCell",
    {
        "verdict": Literal["fits", "tight", "no", "unknown"],
        "needs_gb": float | None,
        "least_gb": float | None,
        "with": dict[str, Any],
        "train_hours": float | None,
        "is_short": bool | None,
        "cost_usd": float | None,
        "origin": str,
    },
)
"""Whether a method fits a GPU (fits, tight, no, unknown), and ``with`` which settings."""


class FitRow(TypedDict):
    """A GPU with the methods that were considered."""

    id: str
    title: str
    memory_gb: float | None
    methods: dict[str, FitCell]


class LadderRow(TypedDict):
    """A step from the desk to the data centre, with its cheapest device that the run fits."""

    title: str
    device_title: str
    verdict: str
    train_hours: float | None
    is_short: bool | None
    usd_per_run: float | None
    usd_per_year: float | None
    pays: str | None


class Ownership(TypedDict):
    """Renting and buying side by side."""

    fits: bool | None
    is_short: bool | None
    hardware_usd: float | None
    rented_usd_per_run: float | None
    owned_usd_per_run: float | None
    break_even_runs: float | None
    trainings_per_year: float | None
    rented_usd_per_year: float | None
    owned_usd_per_year: float | None
    years_of_use: float | None


class PresetRow(TypedDict):
    """Effect of a preset on the run, and its time relative to the run's own."""

    preset: str
    steps: int
    train_hours: float | None
    time_ratio: float | None
    cost_usd: float | None
    memory_gb: float | None


class SensitivityRow(TypedDict):
    """Effect of one change on time and dollars."""

    change: str
    means: str
    steps: int
    hours: float | None
    time_reduction: float
    speed_up: float
    usd_saved: float | None


class StrategyRow(TypedDict):
    """One GPU or several with the same settings, at the best speed-up that is possible."""

    strategy: str
    gpus: int
    speed_up_at_best: float
    price_ratio: float
    break_even_efficiency: float
    hours_at_best: float | None
    cost_usd_at_best: float | None
    memory_gb_per_gpu: float | None
    cheaper: bool | None
    speed_up: float | None
    speed_up_high: float | None
    efficiency_origin: str | None
