"""How fast the models answered: measured on the machine that evaluated, and shown among what depends on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snaketune.report import units
from snaketune.report.facts import get_path

NAMES = {"base": "Base", "tuned": "Base and adapter", "merged": "Merged"}


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of one model, as text."""

    model: str
    median: str
    p95: str
    requests: str
    tokens: str
    batch: str


def speeds(timing: Mapping[str, Any] | None) -> tuple[Speed, ...]:
    """Return a row per model that was timed."""
    models = get_path(timing, "models") or {}
    return tuple(_speed(NAMES[name], models[name]) for name in NAMES if name in models)


def _speed(name: str, found: Mapping[str, Any]) -> Speed:
    return Speed(
        name,
        _seconds(found.get("latency_median_s")),
        _seconds(found.get("latency_p95_s")),
        units.count(found.get("latency_requests")),
        units.significant(found.get("tokens_per_second")),
        units.count(found.get("batch_size")),
    )


def _seconds(value: float | None) -> str:
    return units.UNKNOWN if value is None else f"{units.significant(value)} s"
