"""The fit table: on which devices a run fits, with which method and settings, and its hours and cost there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from snaketune.core.errors import PlanError
from snaketune.plan.costs.budget import is_short
from snaketune.plan.costs.throughput import estimated_rate
from snaketune.plan.devices.hardware import Hardware
from snaketune.plan.memory.fitting import MARGIN
from snaketune.plan.memory.memory import memory_plan
from snaketune.plan.memory_settings import CHECKPOINT_LEVELS, AdapterSetting, MemorySetting
from snaketune.plan.workload import Work

Method = Literal["lora", "8bit", "4bit", "full"]
METHODS: tuple[Method, ...] = ("lora", "8bit", "4bit", "full")


@dataclass(frozen=True, slots=True)
class Fit:
    """A method on a device: ``verdict`` is fits, tight (inside the error band), no or unknown."""

    verdict: Literal["fits", "tight", "no", "unknown"]
    needs_gb: float | None
    """Estimated peak with the setting, or with the smallest one tried if none fits."""
    setting: dict[str, Any]
    """Further settings besides the method: keys of the configuration."""
    checkpoint_every: int


@dataclass(frozen=True, slots=True)
class Option:
    """A method with the settings to try, from the fastest to the one that needs least memory."""

    method: Method
    tries: tuple[tuple[MemorySetting, float], ...]
    """Settings with their estimated peak in GB."""


def memory_options(work: Work, cuda: MemorySetting) -> list[Option]:
    """Return the methods with the memory that each needs; empty for a model whose memory cannot be planned.

    Args:
        work: the run.
        cuda: its setting on a GPU.
    """
    found = []
    for method in METHODS:
        base = setting_for(cuda, method)
        settings = [replace(base, checkpoint_every=every) for every in CHECKPOINT_LEVELS]
        if base.micro_batch > 1:
            settings.append(replace(base, checkpoint_every=CHECKPOINT_LEVELS[-1], micro_batch=1))
        try:
            found.append(Option(method, tuple((one, memory_plan(work.config, one).total) for one in settings)))
        except PlanError:
            return []  # the reason is among the notes of the plan already: its own memory is unknown as well
    return found


def setting_for(setting: MemorySetting, method: Method) -> MemorySetting:
    """Return the setting with another method; an adapter keeps its shape, all weights are trained in float32."""
    if method == "full":
        return replace(setting, adapter=None, quantization="none", weight_dtype="float32")
    half = setting.autocast or "bfloat16"
    quantization: Any = "none" if method == "lora" else method
    adapter = setting.adapter or AdapterSetting()
    return replace(setting, adapter=adapter, quantization=quantization, weight_dtype=half)


def fit_of(option: Option, memory_gb: float | None, micro_batch: int) -> Fit:
    """Return whether and how a method fits ``memory_gb``."""
    if memory_gb is None:
        return Fit("unknown", None, {}, 0)
    for setting, needs in option.tries:
        if fits_in(needs, memory_gb):
            return Fit("fits", needs, _changes(setting, micro_batch), setting.checkpoint_every)
    setting, needs = option.tries[-1]
    verdict: Literal["tight", "no"] = "tight" if needs <= memory_gb else "no"
    return Fit(verdict, needs, _changes(setting, micro_batch), setting.checkpoint_every)


def fits_in(needs_gb: float, memory_gb: float) -> bool:
    """Tell whether a peak fits even if the plan underestimates it by its error band."""
    return needs_gb * (1 + MARGIN) <= memory_gb


def _changes(setting: MemorySetting, micro_batch: int) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if setting.checkpoint_every:
        changes["train.gradient_checkpointing"] = True
        if setting.checkpoint_every > 1:
            changes["train.checkpoint_every_n_layers"] = setting.checkpoint_every
    if setting.micro_batch != micro_batch:
        changes["train.per_device_train_batch_size"] = setting.micro_batch
    return changes


def fit_table(
    work: Work, options: list[Option], catalogue: tuple[Hardware, ...], tokens: int, utilization: float
) -> list[dict[str, Any]]:
    """Return one row per GPU of the catalogue: each method's verdict, hours and rent.

    Hours are those of training alone on one GPU, estimated the same way for all devices, so that they compare.
    """
    return [
        {
            "id": device.id,
            "title": device.title,
            "memory_gb": device.memory_gb,
            "rent_usd_per_hour": device.rent.usd if device.rent else None,
            "methods": {option.method: _cell(work, option, device, tokens, utilization) for option in options},
        }
        for device in catalogue
        if device.id != "cpu"
    ]


def _cell(work: Work, option: Option, device: Hardware, tokens: int, utilization: float) -> dict[str, Any]:
    found = fit_of(option, device.memory_gb, work.setting.micro_batch)
    quantization = option.method if option.method in ("8bit", "4bit") else "none"
    on_gpu = replace(work, setting=option.tries[0][0])
    rate = estimated_rate(on_gpu, device, utilization, found.checkpoint_every, option.method == "full", quantization)
    hours = tokens / rate.tokens_per_second / 3600 if rate.tokens_per_second and found.verdict != "no" else None
    cost = hours * device.rent.usd if hours is not None and device.rent else None
    return {
        "verdict": found.verdict,
        "needs_gb": found.needs_gb,
        "least_gb": None if found.needs_gb is None else min(needs for _, needs in option.tries),
        "with": found.setting,
        "train_hours": hours,
        "is_short": is_short(hours),
        "cost_usd": cost,
        "origin": "estimated",
    }


def with_measured(
    table: list[dict[str, Any]], device: Hardware, method: str, hours: float, memory_gb: float | None
) -> list[dict[str, Any]]:
    """Return the table with the measured hours on ``device`` instead of the estimate; the run evidently fits there."""
    rows = []
    for row in table:
        if row["id"] == device.id and method in row["methods"]:
            cost = hours * device.rent.usd if device.rent else None
            cell: dict[str, Any] = {
                "verdict": "fits",
                "needs_gb": memory_gb,
                "least_gb": None,
                "with": {},
                "train_hours": hours,
            }
            cell |= {"is_short": False, "cost_usd": cost, "origin": "measured"}
            row = {**row, "methods": {**row["methods"], method: cell}}
        rows.append(row)
    return rows


def verdict_of(options: list[Option], method: Method, memory_gb: float | None, micro_batch: int) -> bool | None:
    """Return whether a method fits; None if unknown."""
    option: Mapping[str, Option] = {one.method: one for one in options}
    if method not in option or memory_gb is None:
        return None
    found = fit_of(option[method], memory_gb, micro_batch)
    return {"fits": True, "tight": None, "no": False, "unknown": None}[found.verdict]
