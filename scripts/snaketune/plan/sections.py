"""Parts of plan.json that say what is planned: the device, the work, and what comes on top of training."""

from typing import Any

from snaketune.plan.costs.forecast import Forecast
from snaketune.plan.devices.target import Target
from snaketune.plan.workload import Work


def device_block(target: Target) -> dict[str, Any]:
    """Return the device with its price."""
    device = target.hardware
    return {
        "id": device.id,
        "title": device.title,
        "gpus": target.gpus,
        "is_here": target.is_here,
        "memory_gb": target.memory_gb,
        "price_per_gpu_hour": target.price.usd,
        "price_source": target.price.source,
        "watts": device.watts,
    }


def work_block(work: Work) -> dict[str, Any]:
    """Return what is trained on what."""
    names = ("rows", "documents", "tokens", "squares", "row_length", "eval_tokens", "parameters", "trained")
    found = {name: getattr(work, name) for name in names}
    return {**found, "checkpoint_every": work.setting.checkpoint_every, "fit_method": fit_method(work)}


def fit_method(work: Work) -> str:
    """Return the method of a run as the fit table names it."""
    return "full" if work.is_full else {"none": "lora"}.get(work.setting.quantization, work.setting.quantization)


def overheads_block(seen: Forecast) -> dict[str, Any]:
    """Return what of the time goes into checkpoints, evaluations and starting."""
    budget, timed = seen.budget, seen.is_timed
    return {
        "save_steps": seen.inputs.save_steps or None,
        "saves": budget.saves if seen.inputs.save_steps else None,
        "seconds_per_save": seen.save_seconds,
        "saves_origin": seen.saves_origin,
        "checkpoint_hours": budget.checkpoint_hours if timed else None,
        "checkpoint_share": budget.checkpoint_share if timed else None,
        "evaluations": seen.evaluations,
        "evaluation_hours": budget.evaluation_hours if timed else None,
        "start_hours": budget.preparation_hours if timed else None,
    }
