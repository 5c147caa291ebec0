"""The recommendation that makes a run fit its device, shared by the refusal, the advice and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snaketune.plan.advice.fit_table import Method, Option, fit_of
from snaketune.plan.devices.target import Target
from snaketune.plan.memory.fitting import MARGIN, next_smaller_setting
from snaketune.plan.memory.memory import MemoryPlan
from snaketune.plan.workload import Work

LIGHTER: Mapping[str, tuple[Method, ...]] = {
    "full": ("full", "lora", "8bit", "4bit"),
    "lora": ("lora", "8bit", "4bit"),
    "8bit": ("8bit", "4bit"),
    "4bit": ("4bit",),
}
"""Combinations to try if no single setting suffices, in order of their cost."""
NO_REMEDY = "use a smaller model or a device with more memory"


@dataclass(frozen=True, slots=True)
class Remedy:
    """Settings with which a run fits; empty if no combination suffices."""

    changes: Mapping[str, Any]
    needs_gb: float | None
    sentence: str
    """The advice as the end of an error message."""

    @property
    def words(self) -> str:
        """Return the settings as written in the configuration file."""
        return ", ".join(f"{key}: {written(value)}" for key, value in self.changes.items())


def find_remedy(
    work: Work, target: Target, memory: MemoryPlan | None, options: Sequence[Option], own: str
) -> Remedy | None:
    """Return what to change so that a run fits its device's memory; None if it fits or is unknown.

    The single setting that costs least comes first; if none suffices alone, the lightest method and recomputation that
    fit together.

    Args:
        work: the run.
        target: its device.
        memory: its plan.
        options: the methods with the memory that each needs on a GPU.
        own: the run's method.
    """
    # The margin counts in the run's favour here: a run that only may exceed the memory is warned about, not refused.
    if memory is None or target.memory_gb is None or memory.total * (1 - MARGIN) <= target.memory_gb:
        return None
    change = next_smaller_setting(work.config, work.setting, target.memory_gb)
    if change and change.fits:
        return Remedy({change.key: change.value}, change.plan.total, change.sentence())
    if not target.is_cpu and (found := _together(options, own, target.memory_gb, work.setting.micro_batch)):
        return found
    return Remedy({}, change.plan.total if change else None, NO_REMEDY)


def _together(options: Sequence[Option], own: str, memory_gb: float, micro_batch: int) -> Remedy | None:
    known = {option.method: option for option in options}
    for method in LIGHTER[own]:
        if method not in known:
            continue
        found = fit_of(known[method], memory_gb, micro_batch)
        if found.verdict == "fits":
            changes = {**_method_keys(method, own), **found.setting}
            listed = " and ".join(f"{key} to {written(value)}" for key, value in changes.items())
            return Remedy(changes, found.needs_gb, f"set {listed} ({found.needs_gb:.1f} GB estimated)")
    return None


def _method_keys(method: str, own: str) -> dict[str, Any]:
    keys: dict[str, Any] = {"adapter.type": "lora"} if own == "full" and method != "full" else {}
    return keys | ({"model.quantization": method} if method in ("8bit", "4bit") and method != own else {})


def written(value: Any) -> str:
    """Format a value as YAML."""
    return str(value).lower() if isinstance(value, bool) else str(value)
