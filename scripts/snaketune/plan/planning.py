"""The content of plan.json: the expectations for a run before it starts, each number with unit and origin.

It depends on the clock, on this machine and on earlier runs, so the plan is part of no identity.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from snaketune.facts.data_facts import CountedRows, DocumentLengths
from snaketune.facts.model_facts import PreparedModel
from snaketune.facts.plan_facts import Plan
from snaketune.facts.probe_facts import ProbeRecord
from snaketune.plan.advice.advice import PlanSituation, advise
from snaketune.plan.advice.after_training import after_training, answering_of, answers_block, host_memory
from snaketune.plan.advice.fit_table import Option, fit_table, memory_options, verdict_of, with_measured
from snaketune.plan.advice.ladder import ladder_table
from snaketune.plan.advice.presets import preset_rows
from snaketune.plan.advice.side_by_side import Reached, strategy_table
from snaketune.plan.advice.what_if import cost_rows, rent_or_buy, sensitivity_table
from snaketune.plan.cache import KeptAnswers
from snaketune.plan.costs.budget import finishes_at
from snaketune.plan.costs.calendar import schedule
from snaketune.plan.costs.forecast import (
    DiskNeed,
    Forecast,
    device_block,
    disk_needed,
    fit_method,
    forecast,
    overheads_block,
    rounded,
    work_block,
)
from snaketune.plan.costs.past_runs import answer_timings, find_measurement
from snaketune.plan.costs.probed import kept_probe, measurement_of, newest, noise, probe_block
from snaketune.plan.costs.throughput import Rate, rate_of
from snaketune.plan.devices.calibration import find_calibration
from snaketune.plan.devices.hardware import load_catalogue, load_ladder
from snaketune.plan.devices.machine import Machine
from snaketune.plan.devices.target import Target, choose_target
from snaketune.plan.gate import nearest_hours
from snaketune.plan.memory.memory import MemoryPlan
from snaketune.plan.remedy import Remedy, find_remedy
from snaketune.plan.workload import Work, least_memory, memory_of, read_work, setting_on_gpu, speed_key
from snaketune.settings.operational import Operational
from snaketune.settings.planning_slice import PlanningSlice

MEMORY_BAND = 0.10
MEASURE = "snakemake --cores all plan --config 'plan={probe: true}'"
"""The command that measures an unknown throughput within two minutes."""
QUANTITY_UNITS = {
    "tokens_total": "tokens",
    "steps": "optimizer steps",
    "train_hours": "hours of training",
    "hours": "hours from start to end",
    "cost_usd": "US dollars for all GPUs",
    "total_usd": "US dollars with other costs",
    "memory_gb": "GB (10^9 bytes) of memory per device",
    "disk_gb": "GB (10^9 bytes) of disk",
    "finishes_at": "local time, if it starts when this plan was made",
}


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """The inputs of a plan: configuration, fact files, this machine and the current time."""

    cfg: PlanningSlice
    settings: Operational
    """Operational settings of training: when it saves."""
    rightsize: DocumentLengths
    pack: CountedRows
    model: PreparedModel
    model_folder: Path
    results: Path
    own: Path
    """The folder of the run."""
    machine: Machine
    now: datetime
    probe: ProbeRecord | None = None
    """The record of a probe of this run, if any."""
    token_advice: str | None = None
    """A note on tokens of the data whose embeddings this training does not change."""
    preparation: Mapping[str, float] = field(default_factory=dict)
    """Measured seconds of the earlier stages."""
    answers: KeptAnswers | None = None
    """Facts of the model that earlier plans cached."""


def _own_notes(given: "PlanInputs", probe: ProbeRecord | None) -> list[str | None]:
    """Return notes on new tokens, a noisy probe and a training that may end before its last step."""
    patience = given.cfg["train"].get("early_stopping_patience")
    ends = f"train.early_stopping_patience is {patience}: time, cost and tokens are those of all steps, an upper bound."
    return [given.token_advice, noise(probe), ends if patience is not None else None]


def make_plan(given: PlanInputs) -> Plan:
    """Return the content of plan.json.

    Raises:
        ConfigError: if the adapter does not fit the model.
        PlanError: if the model's configuration cannot be read.
    """
    target = choose_target(given.cfg["plan"], given.machine)
    probe = given.probe or kept_probe(given.own)
    work = read_work(
        given.cfg, given.model_folder, given.model, given.rightsize, given.pack, target, given.answers, probe
    )
    speed, flops = speed_key(given.cfg, work, target), work.flops_per_token()
    by_runs = find_measurement(given.results, given.own, speed, flops, target, given.machine.host)
    # The newest counts, probe or finished run: a driver or library update changes what a device reaches.
    measured = newest(by_runs, measurement_of(probe, target))
    like = find_calibration(given.results, given.own, speed, target, given.machine.host)
    rate = rate_of(work, target.hardware, given.cfg["plan"]["utilization"], measured, like)
    seen = forecast(given.cfg, given.settings, work, target, rate, measured)
    memory, notes = memory_of(given.cfg, work, target)
    disk = disk_needed(given.cfg, given.settings, work, given.model, given.pack)
    figures = _figures(given, target, rate, seen, memory, disk)
    if work.generated:
        figures["tokens_total"] = (seen.budget.tokens_total, _about(work.generated.origin, "answers with prompts"))
    if measured:
        figures["memory_gb"] = (measured.memory_gb, _about("measured", measured.source))
    values = {name: value for name, (value, _) in figures.items()}
    options = memory_options(work, setting_on_gpu(given.cfg, work))
    # A run that was measured on this device fits it: an estimate must not contradict that.
    remedy = find_remedy(work, target, memory, options, fit_method(work)) if not measured else None
    about = {name: {"unit": QUANTITY_UNITS[name], **words} for name, (_, words) in figures.items()}
    plan = {
        **values,
        "about": about,
        "planned_at": given.now.isoformat(timespec="seconds"),
        "device": device_block(target),
        "has_weights": given.model.get("weights_digest", "") is not None,
        "rate": {**asdict(rate), "unit": "real tokens per second of one device", "flops_per_token": flops},
        "speed": speed,
        "work": work_block(work),
        "memory": {**memory.parts, "origin": memory.origin} if memory else {},
        "disk": {**asdict(disk), "to_write": disk.to_write, "free": given.machine.free_disk_gb},
        "overheads": overheads_block(seen),
        **_beside(given, target, work, seen, disk, values["memory_gb"]),
        "preparation": {"seconds": dict(given.preparation), "origin": "measured"},
        "measure": MEASURE if values["hours"] is None and target.is_here and not remedy else None,
        "calendar": schedule(given.now, values["hours"]),
        "limits": {name: given.cfg["plan"][name] for name in ("max_cost_usd", "max_hours")},
        "nearest": {
            "hours": nearest_hours(given.cfg, values, seen.budget.preparation_hours, seen.budget.steps),
            "memory": remedy.sentence if remedy else None,
        },
        "least_memory_gb": least_memory(given.cfg, work, target),
        "remedy": {"changes": dict(remedy.changes), "needs_gb": remedy.needs_gb} if remedy else None,
        **_tables(given, target, work, seen, values, about, options, remedy, _reached(given, target, speed, flops)),
        **probe_block(probe),
        "notes": list(dict.fromkeys([*work.notes, *notes, *filter(None, _own_notes(given, probe))])),
    }
    return cast(Plan, rounded(plan))


def _beside(
    given: PlanInputs, target: Target, work: Work, seen: Forecast, disk: DiskNeed, memory_gb: float | None
) -> dict[str, Any]:
    """Return the costs besides training: evaluation, saving, generation, and the memory of the host."""
    timings = answer_timings(given.results, target, given.machine.host, work.parameters)
    found, cfg = answering_of(work, target, given.pack, timings), given.cfg
    held_out = held["documents"] if (held := given.pack["splits"].get("eval")) else 0
    workers = given.settings.get("dataloader_num_workers", 0)
    return {
        "afterwards": after_training(cfg, work, seen, disk, found, held_out),
        "answers": answers_block(found, target),
        "ram": host_memory(work, target, memory_gb, given.model, workers, given.machine.ram_gb),
        "presets": preset_rows(cfg, work, target, seen, given.pack.get("packing") is not False),
    }


FigureWithOrigin = tuple[Any, dict[str, Any]]


def _about(origin: str, source: str, low: Any = None, high: Any = None) -> dict[str, Any]:
    return {"origin": origin, "source": source, "low": low, "high": high}


def _figures(
    given: PlanInputs, target: Target, rate: Rate, seen: Forecast, memory: MemoryPlan | None, disk: DiskNeed
) -> dict[str, FigureWithOrigin]:
    """Return the published numbers with unit and origin."""
    budget, price = seen.budget, target.price
    hours, origin = (budget.hours, rate.origin) if seen.is_timed else (None, "unknown")
    train_low, train_high = rate.band(budget.train_hours)
    rest = budget.hours - budget.train_hours
    low, high = (None, None) if train_low is None or train_high is None else (train_low + rest, train_high + rest)
    per_hour = price.usd * target.gpus if price.usd is not None else None
    others = sum(given.cfg["plan"]["other_costs_usd"].values())

    def money(more: float, source: str) -> FigureWithOrigin:
        if hours is None or per_hour is None:
            return None, _about("unknown", rate.source if hours is None else price.source)
        bounds = [None if value is None else value * per_hour + more for value in (low, high)]
        return hours * per_hour + more, _about(origin, source, *bounds)

    end, *ends = (
        value if value is None else finishes_at(given.now, value).isoformat(timespec="seconds")
        for value in (hours, low, high)
    )
    needs = memory.total if memory else None
    # Memory has a band to either side, hours one that follows from that of the throughput.
    around = [None if needs is None else needs * (1 + side * MEMORY_BAND) for side in (-1, 1)]
    return {
        "tokens_total": (budget.tokens_total, _about("measured", "counted in the packed rows")),
        "steps": (budget.steps, _about("measured", "counted in the packed rows")),
        "train_hours": (
            budget.train_hours if seen.is_timed else None,
            _about(origin, rate.source, train_low, train_high),
        ),
        "hours": (hours, _about(origin, "training, start, checkpoints and evaluations", low, high)),
        "cost_usd": money(0.0, f"{target.gpus} x ${price.usd or 0:g} per hour ({price.source})"),
        "total_usd": money(others, "with plan.other_costs_usd"),
        "memory_gb": (needs, _about("estimated" if memory else "unknown", "traced shape by shape", *around)),
        "disk_gb": (disk.total, _about("estimated", "checkpoints, results, base model and packed rows")),
        "finishes_at": (end, _about(origin, "start now", *ends)),
    }


def _reached(given: PlanInputs, target: Target, speed: Mapping[str, Any], flops: float | None) -> Reached | None:
    """Return the efficiency of runs on several GPUs against runs on one; None if either was never measured."""
    if target.gpus < 2:
        return None
    several, one = (
        find_measurement(given.results, given.own, {**speed, "gpus": gpus}, flops, target, given.machine.host)
        for gpus in (target.gpus, 1)
    )
    if not several or not one:
        return None
    return Reached(given.cfg["train"]["strategy"], several.tokens_per_second / one.tokens_per_second)


def _tables(
    given: PlanInputs,
    target: Target,
    work: Work,
    seen: Forecast,
    values: Mapping[str, Any],
    about: Mapping[str, Any],
    options: list[Option],
    remedy: Remedy | None,
    reached: Reached | None,
) -> dict[str, Any]:
    cfg = given.cfg
    catalogue, utilization = load_catalogue(), cfg["plan"]["utilization"]
    whole_memory, _ = memory_of(
        {**cfg, "train": {**cfg["train"], "strategy": "single", "offload": "none"}}, work, target
    )
    method = fit_method(work)
    fit = fit_table(work, options, catalogue, seen.budget.tokens_total, utilization)
    if about["train_hours"]["origin"] == "measured" and target.gpus == 1:
        fit = with_measured(fit, target.hardware, method, values["train_hours"], values["memory_gb"])
    has_fp8 = target.hardware.tflops.get("fp8") is not None and not cfg["train"]["fp8"]
    return {
        "fit": fit,
        "ladder": ladder_table(load_ladder(), catalogue, fit, method, cfg["plan"]),
        "strategies": strategy_table(seen, target, whole_memory, work, reached),
        "sensitivity": sensitivity_table(work, seen, given.rightsize, given.pack.get("packing") is not False, has_fp8),
        "costs": cost_rows(cfg["plan"], values["cost_usd"], about["cost_usd"]["origin"]),
        "ownership": rent_or_buy(cfg["plan"], seen, target, remedy is None),
        "advice": [asdict(one) for one in advise(_situation(given, target, work, options, values, remedy))],
    }


def _situation(
    given: PlanInputs,
    target: Target,
    work: Work,
    options: list[Option],
    values: Mapping[str, Any],
    remedy: Remedy | None,
) -> PlanSituation:
    plan, memory, rows = given.cfg["plan"], None if target.is_cpu else target.memory_gb, work.setting.micro_batch
    adapter, starts_from = given.cfg["adapter"], given.cfg["model"]["name_or_path"]
    return PlanSituation(
        makes_it_fit=None if remedy is None else remedy.words or "smaller model",
        adapter_fits=verdict_of(options, "lora", memory, rows),
        eight_bit_fits=verdict_of(options, "8bit", memory, rows),
        quantized_fits=verdict_of(options, "4bit", memory, rows),
        full_fits=verdict_of(options, "full", memory, rows),
        domain_shift=plan["domain_shift"],
        learns_by="dpo" if (work.method, given.cfg["data"]["format"]) == ("sft", "preference") else work.method,
        is_tuned=starts_from.startswith("run:") or bool(adapter.get("init_from")),
        first_training=not any(given.results.glob("runs/*/*/run_info.json")),
        longest_record=given.rightsize["longest"],
        model_context=given.rightsize["model_context"],
        hours=values["hours"],
        deadline_hours=plan["max_hours"],
        gpus=target.gpus,
        cost_usd=values["total_usd"],
        max_cost_usd=plan["max_cost_usd"],
    )
