"""Comparison of the presets: the effect of their settings on a run, against the configured run."""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any, cast

from snaketune.core.errors import PlanError
from snaketune.plan.advice.preset_files import load_presets
from snaketune.plan.costs.budget import RunInputs, budget_of
from snaketune.plan.costs.forecast import Forecast
from snaketune.plan.costs.throughput import SLOWER, peak_of
from snaketune.plan.devices.target import Target
from snaketune.plan.memory.memory import adapter_parameters, memory_plan
from snaketune.plan.memory_settings import setting_of
from snaketune.plan.workload import Work, with_checkpointing
from snaketune.settings.model_section import ModelSection
from snaketune.settings.planning_slice import PlanningSlice
from snaketune.settings.train_section import TrainSection
from snaketune.settings.training_slices import PaddedTrain, StartedAdapter


def preset_rows(cfg: PlanningSlice, work: Work, target: Target, seen: Forecast, packs: bool) -> list[dict[str, Any]]:
    """Return a row per preset: time, dollars and memory of this run with its settings, and the time against the run's.

    With the same number of steps, a run sees as many tokens with each preset, and a preset that pads instead of packing
    also computes the padding. Hours are those of training alone: known if the run's throughput is, by operations and
    the peak of the dtype. None is unknown, as that peak may be.

    Args:
        cfg: the ``model``, ``adapter`` and ``train`` sections of the run.
        work: the run.
        target: its device.
        seen: its forecast.
        packs: whether its rows are packed.
    """
    return [_row(name, values, cfg, work, target, seen, packs) for name, values in load_presets().items()]


def _row(
    name: str,
    values: Mapping[str, Any],
    cfg: PlanningSlice,
    work: Work,
    target: Target,
    seen: Forecast,
    packs: bool,
) -> dict[str, Any]:
    changed = cfg.copy()
    changed["model"] = cast(ModelSection, _over(cfg["model"], values.get("model") or {}))
    changed["adapter"] = cast(StartedAdapter, _over(cfg["adapter"], values.get("adapter") or {}))
    changed["train"] = cast(PaddedTrain, _over(cfg["train"], values.get("train") or {}))
    then = _work(changed, work, target, packs, (values.get("tokens") or {}).get("packing", True))
    inputs = _inputs(changed["train"], seen.inputs, then)
    slower = _seconds_ratio(work, then, target)
    now, planned = budget_of(seen.inputs), budget_of(inputs)
    share = planned.tokens_total / now.tokens_total if now.tokens_total else None
    ratio = None if slower is None or share is None else slower * share
    hours = None if ratio is None or not seen.is_timed else now.train_hours * ratio
    price = target.price.usd
    return {
        "preset": name,
        "steps": planned.steps,
        "train_hours": hours,
        "time_ratio": ratio,
        "cost_usd": None if hours is None or price is None else hours * price * target.gpus,
        "memory_gb": _memory(then),
        "origin": "estimated",
    }


def _over(section: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section with the preset's values that the plan depends on; what is trained stays the run's own."""
    return {**section, **{key: value for key, value in values.items() if key in section and key != "type"}}


def _work(cfg: PlanningSlice, work: Work, target: Target, packs: bool, wanted: bool) -> Work:
    """Return the run with a preset's settings; where rows were padded, packed ones hold only real tokens."""
    # Padding has one document per row; packing fills rows nearly completely, so tokens over row length is close.
    rows = work.rows
    if packs and not wanted:
        rows = work.documents
    if wanted and not packs:
        rows = ceil(work.tokens / work.row_length)
    # Quantised weights cannot be trained directly, so that part of a preset does not apply to full fine-tuning.
    if work.is_full:
        cfg = {**cfg, "model": {**cfg["model"], "quantization": "none"}}
    setting = setting_of(cfg, work.row_length, target.kind, target.has_bf16)
    try:
        setting = with_checkpointing(work.config, setting, cfg["train"]["gradient_checkpointing"], target)
        trained = adapter_parameters(work.config, setting.adapter) if setting.adapter else work.parameters
    except PlanError:
        trained = work.trained
    return replace(work, rows=rows, setting=setting, trained=trained)


def _inputs(train: TrainSection, run: RunInputs, then: Work) -> RunInputs:
    return replace(
        run,
        rows=then.rows,
        epochs=train["num_train_epochs"] if train["max_steps"] < 0 else _epochs(run),
        max_steps=-1,
        micro_batch=train["per_device_train_batch_size"],
        accumulation=train["gradient_accumulation_steps"],
    )


def _epochs(run: RunInputs) -> float:
    """Return the epochs of a run of a number of steps."""
    return run.max_steps * run.micro_batch * run.accumulation * run.gpus / run.rows


def _seconds_ratio(work: Work, then: Work, target: Target) -> float | None:
    """Return the ratio of the time per real token with other settings to the run's; None if unknown."""
    before, after = _seconds_of_token(work, target), _seconds_of_token(then, target)
    if before is None or after is None:
        return None
    return after / before


def _seconds_of_token(work: Work, target: Target) -> float | None:
    """Return the time per real token up to a factor that is the same for all settings on a device."""
    # On a CPU the peak is the same for all presets in float32 and cancels in the ratio; that of bfloat16 is unknown.
    flops, peak = work.flops_per_token(), 1.0 if target.is_cpu else peak_of(work, target.hardware)
    if not flops or not peak or (target.is_cpu and work.setting.autocast):
        return None
    # Positions per real token: padding is computed like a token.
    padding = work.rows * work.row_length / work.tokens if work.tokens else 1.0
    return flops / peak * SLOWER[work.setting.quantization] * padding


def _memory(work: Work) -> float | None:
    try:
        return memory_plan(work.config, work.setting).total
    except PlanError:
        return None
