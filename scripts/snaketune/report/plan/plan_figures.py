"""The figures of a plan: training, its overheads, and the stages after it."""

from dataclasses import dataclass, replace
from typing import Any

from snaketune.facts.plan_facts import About, Plan, PlannedRate, about_number, number_of
from snaketune.report import units
from snaketune.report.compare.comparison import compared_dollars, hours
from snaketune.report.plan.plan_tables import UNKNOWN, size_in_gb, time
from snaketune.report.text import excerpt

BY_COUNTING = "counted in the packed rows"
MEMORY = "Peak memory of one device"


@dataclass(frozen=True, slots=True)
class PlanFigure:
    """A number of the plan: value, derivation, range and source."""

    label: str
    value: str
    origin: str
    band: str
    source: str


def _whole(value: float | None) -> str:
    return UNKNOWN if value is None else units.count(round(value))


def _rate(value: float | None) -> str:
    return UNKNOWN if value is None else f"{units.significant(value)} tokens/s"


def plan_figures(plan: Plan) -> list[PlanFigure]:
    """Return the public numbers of the plan and the throughput that they are based on."""
    rate = plan["rate"]
    rows = [
        ("Tokens", _whole, "tokens_total"),
        ("Optimizer steps", _whole, "steps"),
        ("Training", time, "train_hours"),
        ("From start to end", time, "hours"),
        ("Cost of computing", compared_dollars, "cost_usd"),
        ("Cost of everything given", compared_dollars, "total_usd"),
        (MEMORY, size_in_gb, "memory_gb"),
        ("Disk", size_in_gb, "disk_gb"),
    ]
    found = [_figure(label, write, number_of(plan, name), about_number(plan, name)) for label, write, name in rows]
    found.insert(2, _figure("Throughput of one device", _rate, rate["tokens_per_second"], rate))
    found += _beside(plan)
    least = _least(plan)
    return [replace(one, source=f"{one.source}{least}") if one.label == MEMORY else one for one in _collapsed(found)]


def _beside(plan: Plan) -> list[PlanFigure]:
    """Return the memory of the host, and the cost of a thousand answers of the tuned model."""
    found = []
    if ram := plan["ram"]:
        available = "" if ram["available_gb"] is None else f"; {size_in_gb(ram['available_gb'])} here"
        source = f"{ram['source']}{available}"
        found.append(PlanFigure("Memory of the host", size_in_gb(ram["gb"]), ram["origin"], "", source))
    if answers := plan["answers"]:
        seconds, cost = answers["seconds"], answers["cost_usd"]
        value = UNKNOWN if seconds is None else hours(seconds) + ("" if cost is None else f", {compared_dollars(cost)}")
        label = f"{units.count(answers['answers'])} answers of the tuned model"
        found.append(PlanFigure(label, value, answers["origin"], "", excerpt(answers["source"], 300).text))
    return found


def afterwards(plan: Plan) -> list[tuple[str, str, str]]:
    """Return what comes after training: evaluation, saving, an upload; unknown times in words."""
    return [
        (
            excerpt(row["what"], 80).text,
            UNKNOWN if row["seconds"] is None else hours(row["seconds"]),
            row["origin"] if row["seconds"] is not None else "",
        )
        for row in plan["afterwards"]
    ]


def _least(plan: Plan) -> str:
    """Return what a run needs at least, where that is less than planned."""
    least, planned = plan["least_memory_gb"], plan["memory_gb"]
    if least is None or planned is None or least >= planned:
        return ""
    return f"; at least {size_in_gb(least)}, with every layer recomputed and a micro-batch of 1"


def _collapsed(found: list[PlanFigure]) -> list[PlanFigure]:
    """Return the figures, with all unknown ones in a single row."""
    unknown = [one for one in found if one.value == UNKNOWN]
    if len(unknown) < 2:
        return found
    labels = ", ".join(one.label[0].lower() + one.label[1:] for one in unknown)
    together = PlanFigure(labels[0].upper() + labels[1:], UNKNOWN, UNKNOWN, "", unknown[0].source)
    known = [one for one in found if one.value != UNKNOWN]
    return [*known, together]


def _figure(label: str, write: Any, value: Any, about: About | PlannedRate) -> PlanFigure:
    low, high = about["low"], about["high"]
    return PlanFigure(
        label=label,
        value=write(value),
        origin=UNKNOWN if value is None else "counted" if about["source"] == BY_COUNTING else about["origin"],
        band="" if value is None or low is None else f"{write(low)} to {write(high)}",
        source=excerpt(about["source"], 300).text,
    )


def overheads(plan: Plan) -> list[tuple[str, str, str]]:
    """Return the overheads of training: label, value, origin."""
    found, origin = plan["overheads"], plan["rate"]["origin"]
    saves = UNKNOWN if found["saves"] is None else units.count(found["saves"], "checkpoint")
    share = "" if found["checkpoint_share"] is None else f", {units.percent(found['checkpoint_share'])} of the time"
    rows = [
        (f"Checkpoints ({saves}{share})", time(found["checkpoint_hours"]), found["saves_origin"]),
        (f"Evaluations on the way ({found['evaluations']})", time(found["evaluation_hours"]), origin),
        ("Start: loading, compiling", time(found["start_hours"]), origin),
    ]
    if plan["hours"] is None:
        rows = [("Checkpoints, evaluations and start", UNKNOWN, "")]
    stages = (plan.get("preparation") or {}).get("seconds") or {}
    return rows + [
        (f"Data: {excerpt(name, 60).text}", hours(seconds), "measured before") for name, seconds in stages.items()
    ]
