"""What-if analysis: other settings, bought hardware, and the costs of a run besides computing."""

from typing import Any

from snaketune.facts.data_facts import DocumentLengths
from snaketune.plan.costs.budget import (
    RunInputs,
    annual_usd,
    break_even_runs,
    electricity_usd,
    is_short,
    sensitivity,
)
from snaketune.plan.costs.forecast import Forecast
from snaketune.plan.costs.throughput import SLOWER
from snaketune.plan.devices.target import Target
from snaketune.plan.workload import Work, tokens_up_to
from snaketune.settings.plan_section import PlanSection

FLOAT8_GAIN = 1.28
"""torchtitan, Llama-3.1-8B on 8 H100: 6,667 to 8,532 tokens/s; for adapters on 70B torchtune found 1.30."""
COMMON_COSTS = ("labelling", "evaluation", "storage")
"""Easily forgotten costs outside the pipeline."""


OWNERSHIP = (
    "hardware_usd",
    "rented_usd_per_run",
    "owned_usd_per_run",
    "break_even_runs",
    "trainings_per_year",
    "rented_usd_per_year",
    "owned_usd_per_year",
    "years_of_use",
)


def sensitivity_table(
    work: Work, seen: Forecast, rightsize: DocumentLengths, packs: bool, has_fp8: bool
) -> list[dict[str, Any]]:
    """Return the effect of each single change on hours and dollars; only ratios of times if throughput is unknown.

    Args:
        work: the run.
        seen: its forecast.
        rightsize: facts about the lengths of the documents.
        packs: whether rows are packed.
        has_fp8: whether the device computes in float8 and the run does not yet.
    """
    changes = _changes(work, seen.inputs, rightsize, packs, has_fp8)
    rows = sensitivity(seen.inputs, {name: fields for name, (fields, _) in changes.items()})
    is_priced = seen.is_timed and seen.budget.cost_usd is not None
    return [
        {
            "change": row.change,
            "means": changes[row.change][1],
            "steps": row.budget.steps,
            "hours": row.budget.hours if seen.is_timed else None,
            "hours_saved": row.hours_saved if seen.is_timed else None,
            "time_reduction": row.time_reduction,
            "speed_up": row.speed_up,
            "usd_saved": row.usd_saved if is_priced else None,
            "origin": "estimated",
        }
        for row in rows
    ]


Changes = dict[str, tuple[dict[str, Any], str]]


def _changes(work: Work, run: RunInputs, rightsize: DocumentLengths, packs: bool, has_fp8: bool) -> Changes:
    """Return the changed fields of the run's inputs by the name of the change, with its meaning for training."""
    rate, half = run.tokens_per_second, rightsize["max_length"] // 2
    share = tokens_up_to(rightsize["histogram"], half)
    halved = {"rows": max(1, round(run.rows * share)), "tokens": max(1, round(run.tokens * share))}
    found: Changes = {
        "half the training": (_half_training(run), "less is learned"),
        f"documents of at most {half} tokens": (halved, f"{1 - share:.0%} of the tokens are left out"),
        "twice the accumulation": (
            {"accumulation": run.accumulation * 2, **_half_the_steps(run)},
            "half the steps, the same work",
        ),
    }
    if run.accumulation > 1:
        rows = {"micro_batch": run.micro_batch * 2, "accumulation": run.accumulation // 2}
        found["twice the micro-batch"] = (rows, "more memory; faster only if the device is not busy")
    if packs:
        real = work.tokens / (work.documents * work.row_length)
        density = work.tokens / (work.rows * work.row_length)
        slower = {"rows": work.documents, "tokens_per_second": rate * real / density}
        found["padding instead of packing"] = (slower, f"{1 - real:.0%} of the positions would be padding")
    if run.save_steps:
        found["twice the checkpoints"] = ({"save_steps": max(1, run.save_steps // 2)}, "a crash loses half as much")
        found["half the checkpoints"] = ({"save_steps": run.save_steps * 2}, "a crash loses twice as much")
    return found | _recomputation(work, rate) | _quantization(work, rate) | _float8(work, rate, has_fp8)


def _half_training(run: RunInputs) -> dict[str, Any]:
    return _half_the_steps(run) or {"epochs": run.epochs / 2}


def _half_the_steps(run: RunInputs) -> dict[str, Any]:
    return {} if run.max_steps < 0 else {"max_steps": max(1, run.max_steps // 2)}


def _recomputation(work: Work, rate: float) -> Changes:
    now = work.flops_per_token()
    if not now:
        return {}
    other, words = (0, "no recomputation") if work.setting.checkpoint_every else (1, "every layer recomputed")
    then = work.flops_per_token(other)
    means = "more memory" if other == 0 else "less memory"
    return {words: ({"tokens_per_second": rate * now / then}, means)} if then else {}


def _quantization(work: Work, rate: float) -> Changes:
    if work.is_full or work.setting.device == "cpu":
        return {}
    if work.setting.quantization == "none":
        return {"a 4-bit base": ({"tokens_per_second": rate / SLOWER["4bit"]}, "less memory, rounded weights")}
    faster = {"tokens_per_second": rate * SLOWER[work.setting.quantization]}
    return {"a 16-bit base": (faster, "more memory, exact weights")}


def _float8(work: Work, rate: float, has_fp8: bool) -> Changes:
    if not has_fp8 or work.is_full or work.setting.quantization != "none":
        return {}
    means = "frozen layers in 8-bit floats (train.fp8); published: 1.28 to 1.30 times as fast"
    return {"float8 layers": ({"tokens_per_second": rate * FLOAT8_GAIN}, means)}


def cost_rows(plan: PlanSection, compute_usd: float | None, origin: str) -> list[dict[str, Any]]:
    """Return all costs of a run: computing, those configured, and the easily forgotten ones as unknown."""
    others = plan["other_costs_usd"]
    rows = [{"name": "electricity" if plan["owned"] else "GPU hours", "usd": compute_usd, "origin": origin}]
    rows += [{"name": name, "usd": usd, "origin": "given"} for name, usd in sorted(others.items())]
    return rows + [{"name": name, "usd": None, "origin": "unknown"} for name in COMMON_COSTS if name not in others]


def rent_or_buy(plan: PlanSection, seen: Forecast, target: Target, fits: bool = True) -> dict[str, Any]:
    """Return when bought hardware is paid for, and what a year costs rented and owned; None is unknown.

    A device that the run does not fit is neither rented nor bought for it.
    """
    if not fits:
        return {**dict.fromkeys(OWNERSHIP), "fits": False, "is_short": False, "origin": "unknown"}
    device, hours = target.hardware, seen.budget.hours * target.gpus
    rent = plan["price_per_gpu_hour"] if not plan["owned"] else None
    rent = rent if rent is not None else (device.rent.usd if device.rent else None)
    rented = hours * rent if seen.is_timed and rent is not None else None
    has_watts = seen.is_timed and device.watts is not None
    owned = electricity_usd(device.watts, hours, plan["electricity_usd_per_kwh"]) if has_watts else None  # type: ignore[arg-type]
    hardware = device.buy.usd * target.gpus if device.buy else None
    is_known = rented is not None and owned is not None and hardware is not None and not is_short(hours)
    runs = plan["trainings_per_year"]
    return {
        "fits": True,
        "hardware_usd": hardware,
        "rented_usd_per_run": rented,
        "owned_usd_per_run": owned,
        "break_even_runs": break_even_runs(hardware, rented, owned) if is_known else None,  # type: ignore[arg-type]
        "trainings_per_year": runs,
        "is_short": is_short(hours),
        "rented_usd_per_year": None if rented is None or is_short(hours) else annual_usd(runs, rented),
        "owned_usd_per_year": annual_usd(runs, owned, hardware, plan["years_of_use"]) if is_known else None,  # type: ignore[arg-type]
        "years_of_use": plan["years_of_use"],
        "origin": "estimated" if rented is not None or owned is not None else "unknown",
    }
