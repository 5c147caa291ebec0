"""The plan compared with the measured run: the only part of the page that was measured on a machine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snaketune.core.gpus import GPU_CONTEXT_BYTES
from snaketune.facts.measured import RunInfo
from snaketune.facts.plan_facts import About, Plan, PlannedRate, about_number, number_of
from snaketune.facts.plan_table_facts import CostRow, FitCell
from snaketune.report import units
from snaketune.report.compare.comparison import compared_dollars, hours, relative
from snaketune.report.report_facts import RunPageFacts
from snaketune.report.text import excerpt

METHOD_NAMES = {"lora": "LoRA", "8bit": "8 bit", "4bit": "4 bit", "full": "All weights"}
VERDICT_NAMES = {"fits": "fits", "tight": "too close to call", "no": "does not fit", "unknown": "unknown"}
COST_WORDS = {"given": "given in the configuration"}


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A planned number and its measured counterpart; ``origin`` says where the plan has it from."""

    label: str
    planned: str
    origin: str
    band: str
    actual: str
    difference: str


@dataclass(frozen=True, slots=True)
class Planning:
    """The section as text: numbers, where they come from, on which GPUs the run would fit, costs and advice."""

    device: str
    rate_source: str
    rows: tuple[PlannedRow, ...]
    fit_header: tuple[str, ...]
    fit: tuple[tuple[str, ...], ...]
    costs: tuple[tuple[str, str, str], ...]
    advice: tuple[tuple[str, str, str], ...]


def planning(facts: RunPageFacts) -> Planning | None:
    """Return the plan against what was measured, or None for a run that was never planned."""
    plan = facts.plan
    if not plan:
        return None
    methods = [name for name in METHOD_NAMES if plan["fit"] and all(name in row["methods"] for row in plan["fit"])]
    own = (plan, facts.measured, facts)
    return Planning(
        device=f"{units.count(plan['device']['gpus'])} x {excerpt(plan['device']['title'], 100).text}",
        rate_source=excerpt(plan["rate"]["source"], 400).text,
        rows=tuple(_row(*own, entry) for entry in PLAN_ROWS),
        fit_header=tuple(METHOD_NAMES[name] for name in methods),
        fit=tuple((row["title"], *(_cell(row["methods"][name]) for name in methods)) for row in plan["fit"]),
        costs=tuple(
            (excerpt(row["name"], 100).text, compared_dollars(row["usd"]), _origin(row)) for row in plan["costs"]
        ),
        advice=tuple((one["topic"], one["choice"], one["reason"]) for one in plan["advice"]),
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """A row: its name in the plan (empty for the throughput), its format, and how its counterpart is found."""

    label: str
    name: str
    write: Callable[[Any], str]
    actual: Callable[[RunPageFacts, RunInfo], float | None]


def _row(plan: Plan, info: RunInfo, facts: RunPageFacts, entry: Entry) -> PlannedRow:
    about: About | PlannedRate = about_number(plan, entry.name) if entry.name else plan["rate"]
    planned = number_of(plan, entry.name) if entry.name else plan["rate"]["tokens_per_second"]
    actual, low, high = entry.actual(facts, info), about["low"], about["high"]
    return PlannedRow(
        label=entry.label,
        planned="unknown" if planned is None else entry.write(planned),
        origin="" if planned is None else _how(entry.name, about["origin"]),
        band="" if None in (planned, low, high) else f"{entry.write(low)} to {entry.write(high)}",
        actual=units.NOT_MEASURED if actual is None else entry.write(actual),
        difference="" if actual is None else relative(actual, planned),
    )


def _how(name: str, origin: str) -> str:
    """Return the origin of a planned number: measured by an earlier run, counted in the data, or estimated."""
    return "counted" if name in ("tokens_total", "steps") else {"measured": "measured before"}.get(origin, origin)


def _tokens(facts: RunPageFacts, info: RunInfo) -> float | None:
    return facts.adapter["tokens"]


def _steps(facts: RunPageFacts, info: RunInfo) -> float | None:
    return facts.adapter["steps"]


def _training(facts: RunPageFacts, info: RunInfo) -> float | None:
    """Return the hours of training, None for a resumed run, whose clock saw only its last part."""
    compute = info["seconds"]["compute"]
    if compute is None or info["resumed_from_step"] is not None:
        return None
    return (compute + (info["seconds"]["data"] or 0.0)) / 3600


def whole_hours(facts: RunPageFacts, info: RunInfo) -> float | None:
    """Return the hours of the training job, None for a resumed run, whose clock saw only its last part."""
    seconds = info["train"]["seconds"]
    return None if seconds is None or info["resumed_from_step"] is not None else seconds / 3600


def _rate(facts: RunPageFacts, info: RunInfo) -> float | None:
    compute, tokens = info["seconds"]["compute"], info["tokens_this_time"]
    seconds = (compute or 0.0) + (info["seconds"]["data"] or 0.0)
    gpus = (facts.plan and facts.plan["device"]["gpus"]) or 1
    return tokens / seconds / gpus if tokens and seconds else None


def _cost(facts: RunPageFacts, info: RunInfo) -> float | None:
    whole, device = whole_hours(facts, info), facts.plan["device"] if facts.plan else None
    if not device or not whole or device["price_per_gpu_hour"] is None or device["is_here"] is False:
        return None
    return whole * device["price_per_gpu_hour"] * device["gpus"]


def _memory(facts: RunPageFacts, info: RunInfo) -> float | None:
    memory = info["peak_memory"]
    # The plan counts the GPU's memory of the whole process, as `nvidia-smi` does.
    peak = memory["gpu_bytes"] + GPU_CONTEXT_BYTES if memory["gpu_bytes"] else memory["resident_bytes"]
    return peak / 1e9 if peak else None


def _hours(value: float) -> str:
    return hours(value * 3600)


def _gigabytes(value: float) -> str:
    return units.file_size(round(value * 1e9))


PLAN_ROWS = (
    Entry("Tokens", "tokens_total", lambda value: units.count(round(value)), _tokens),
    Entry("Optimizer steps", "steps", lambda value: units.count(round(value)), _steps),
    Entry("Real tokens per second of one device", "", units.significant, _rate),
    Entry("Training", "train_hours", _hours, _training),
    Entry("The whole job: start, training, checkpoints, evaluations", "hours", _hours, whole_hours),
    Entry("Cost of computing", "cost_usd", compared_dollars, _cost),
    Entry("Peak memory of one device", "memory_gb", _gigabytes, _memory),
)


def _cell(cell: FitCell) -> str:
    needs = f", {cell['needs_gb']:.3g} GB" if cell["needs_gb"] else ""
    if cell["is_short"]:
        return f"{VERDICT_NAMES[cell['verdict']]}{needs}, under a minute"
    time = f", {_hours(cell['train_hours'])}" if cell["train_hours"] is not None else ""
    cost = f", {compared_dollars(cell['cost_usd'])}" if cell["cost_usd"] is not None else ""
    return VERDICT_NAMES[cell["verdict"]] + needs + time + cost


def _origin(row: CostRow) -> str:
    return COST_WORDS.get(row["origin"], row["origin"])
