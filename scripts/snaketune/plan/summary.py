"""A plan as text for the terminal: one screen, most important first, every number with its origin."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, cast

from snaketune.plan.costs.budget import finishes_at
from snaketune.plan.costs.calendar import span

if TYPE_CHECKING:  # every start imports this module
    from snaketune.facts.plan_facts import About, Overheads, Plan, PlannedRate
    from snaketune.facts.plan_table_facts import FitCell, LadderRow, StrategyRow

UNKNOWN_WORD = "unknown"
SHORT_METHOD_NAMES = {"lora": "LoRA", "8bit": "8 bit", "4bit": "4 bit", "full": "full"}
SHORT_VERDICTS = {"fits": "fits", "tight": "tight", "no": "no", "unknown": "?"}


def describe_plan(plan: "Plan", name: str, now: datetime | None = None) -> str:
    """Return the plan of the run ``name`` as text.

    Args:
        plan: the content of plan.json.
        name: of the run.
        now: when it would start; None takes the time at which the plan was made.
    """
    stops = [f"  DOES NOT START: {sentence}" for sentence in plan.get("stops") or ()]
    return "\n".join([_title(plan, name), *stops, *plan_lines(plan, now), "", *_fit(plan), "", *_rest(plan)])


def _title(plan: "Plan", name: str) -> str:
    device, work = plan["device"], plan["work"]
    return (
        f"Plan of {name}: {plan_number(work['parameters'])} parameters, {plan_number(work['trained'])} trained, on"
        f" {device['gpus']} x {device['title']}{'' if device['is_here'] else ' (not this machine)'}"
    )


def plan_lines(plan: "Plan", now: datetime | None = None) -> list[str]:
    """Return the ten main lines: quantity, value, origin and source."""
    rate, device, disk = plan["rate"], plan["device"], plan["disk"]
    memory = f"of {device['memory_gb']:.1f} GB" if device["memory_gb"] else ""
    least = plan["least_memory_gb"]
    if least is not None and plan["memory_gb"] is not None and gigabytes(least) != gigabytes(plan["memory_gb"]):
        memory = ", ".join(filter(None, (memory, f"{gigabytes(least)} at least")))
    rows = [
        (
            "tokens",
            plan_number(plan["tokens_total"]),
            "tokens_total",
            f"{plan_number(plan['work']['tokens'])} in one epoch",
        ),
        ("steps", plan_number(plan["steps"]), "steps", f"{plan['work']['row_length']} tokens in a row"),
        ("throughput", _rate(rate), "", rate["source"]),
        ("training", duration(plan["train_hours"]), "train_hours", ""),
        ("total time", duration(plan["hours"]), "hours", _overheads(plan["overheads"])),
        ("ends", _end(plan, now), "finishes_at", ""),
        ("cost", dollars(plan["cost_usd"]), "cost_usd", plan["device"]["price_source"]),
        ("total cost", dollars(plan["total_usd"]), "total_usd", _others(plan)),
        ("memory", gigabytes(plan["memory_gb"]), "memory_gb", memory),
        (
            "disk",
            gigabytes(plan["disk_gb"]),
            "disk_gb",
            f"{gigabytes(disk['to_write'])} to write, {gigabytes(disk['free'])} free",
        ),
    ]
    lines = [_line(plan, *row) for row in rows]
    return [*lines, f"  measure    {plan['measure']}"] if plan["measure"] else lines


def _line(plan: "Plan", label: str, value: str, name: str, source: str) -> str:
    about = cast("Mapping[str, About]", plan["about"]).get(name) or plan["rate"]
    if value == UNKNOWN_WORD and name not in ("memory_gb", "cost_usd", "total_usd", "disk_gb"):
        source = about["source"] if label == "throughput" else ""
    origin = "" if value == UNKNOWN_WORD else about["origin"]
    return f"  {label:<10} {value:<28} {origin:<10} {source}".rstrip()


def _rate(rate: "PlannedRate") -> str:
    if rate["tokens_per_second"] is None:
        return UNKNOWN_WORD
    return f"{plan_number(rate['tokens_per_second'])} tokens/s ({plan_number(rate['low'])}-{plan_number(rate['high'])})"


def _overheads(found: "Overheads") -> str:
    if found["checkpoint_share"] is None:
        return ""
    return f"{found['saves']} checkpoints {found['checkpoint_share']:.1%}, {found['evaluations']} evaluations"


def _others(plan: "Plan") -> str:
    missing = [
        row["name"]
        for row in plan["costs"]
        if row["origin"] == UNKNOWN_WORD and row["name"] not in ("GPU hours", "electricity")
    ]
    return f"not counted: {', '.join(missing)} (plan.other_costs_usd)" if missing else "plan.other_costs_usd"


def _end(plan: "Plan", now: datetime | None) -> str:
    if plan["hours"] is None:
        return UNKNOWN_WORD
    start = now or datetime.fromisoformat(plan["planned_at"])
    return span(start, finishes_at(start, plan["hours"]))


def _fit(plan: "Plan") -> list[str]:
    own = plan["work"]["fit_method"]
    planned = [name for name in SHORT_METHOD_NAMES if all(name in row["methods"] for row in plan["fit"])]
    if not plan["fit"] or own not in planned:
        return ["  Which GPUs it fits is unknown: the memory of this model cannot be estimated."]
    others = [name for name in planned if name != own]
    cells = {
        row["title"]: (_own_cell(row["methods"][own]), *(_cell(row["methods"][name]) for name in others))
        for row in plan["fit"]
    }
    table = [("On one GPU", (SHORT_METHOD_NAMES[own], *(SHORT_METHOD_NAMES[name] for name in others)))]
    for same, titles in groupby(cells, cells.__getitem__):
        table.append((_together(list(titles)), same))
    width = max(len(title) for title, _ in table) + 2
    rows = [(title, first, "".join(f"{cell:<15}" for cell in rest)) for title, (first, *rest) in table]
    return [f"  {title:<{width}}{first:<32}{rest}".rstrip() for title, first, rest in rows]


def _together(titles: Sequence[str]) -> str:
    """Return one name for neighbouring devices of the catalogue with the same result."""
    return titles[0] if len(titles) == 1 else f"{titles[0]} to {titles[-1]} ({len(titles)})"


def _cell(cell: "FitCell") -> str:
    return (
        f"{SHORT_VERDICTS[cell['verdict']]} {cell['needs_gb']:.3g} GB"
        if cell["needs_gb"]
        else SHORT_VERDICTS[cell["verdict"]]
    )


def _own_cell(cell: "FitCell") -> str:
    if cell["train_hours"] is None:
        return _cell(cell)
    return f"{_cell(cell)} {_elsewhere(cell, cell['cost_usd'], ' ')}"


def _elsewhere(row: "FitCell | LadderRow", usd: float | None, joint: str) -> str:
    """Return hours and cost of training on another device; below a minute only the time."""
    if row["is_short"]:
        return "under a minute"
    return duration(row["train_hours"]) + (f"{joint}{dollars(usd)}" if usd is not None else "")


def _rest(plan: "Plan") -> list[str]:
    lines = [f"  {one['topic']}: {one['choice']}, because {one['reason']}." for one in plan["advice"]]
    lines += [_step(row) for row in plan["ladder"] if row["usd_per_run"] is not None]
    lines += [_several(row) for row in plan["strategies"][1:2]]
    own = plan["ownership"]
    if own["break_even_runs"] is not None:
        lines.append(
            f"  Bought for {dollars(own['hardware_usd'])} it pays off after {plan_number(own['break_even_runs'])} runs."
        )
    if plan["autotune"]:
        from snaketune.plan.costs.probed import describe_tuning  # here: every start imports this module

        lines += [f"  {line}" for line in describe_tuning(plan["autotune"])]
    return lines + [f"  Note: {note}" for note in plan["notes"]]


def _step(row: "LadderRow") -> str:
    year = f", {dollars(row['usd_per_year'])} a year" if row["usd_per_year"] is not None else ""
    run = _elsewhere(row, row["usd_per_run"], " and ")
    return f"  {row['title']}: {row['device_title']}, {run} a run{year} (estimated; {row['pays']})."


def _several(row: "StrategyRow") -> str:
    fast = f"at best {row['speed_up_at_best']:g}"
    if row["speed_up"] is not None:
        fast = f"{row['speed_up']:.2f} to {row['speed_up_high']:.2f} ({row['efficiency_origin']})"
    return (
        f"  Several GPUs: {row['gpus']} of them ({row['strategy']}) are {fast} times as fast at"
        f" {row['price_ratio']:g} times the price: {'cheaper' if row['cheaper'] else 'not cheaper, only sooner'}."
    )


def plan_number(value: float | None) -> str:
    """Return a number with separators, three significant digits below a hundred."""
    if value is None:
        return UNKNOWN_WORD
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def duration(hours: float | None) -> str:
    """Format hours: ``45 s``, ``2.3 min``, ``12 min``, ``3.5 h``."""
    if hours is None:
        return UNKNOWN_WORD
    seconds = hours * 3600
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 6000:
        return f"{seconds / 60:.{1 if seconds < 600 else 0}f} min"
    return f"{hours:,.1f} h"


def dollars(value: float | None) -> str:
    """Format US dollars; less than ten cents with significant digits."""
    if value is None:
        return UNKNOWN_WORD
    return f"${value:,.2f}" if value >= 0.1 or value == 0 else f"${value:.2g}"


def gigabytes(value: float | None) -> str:
    """Return GB (10⁹ bytes), small ones in MB."""
    if value is None:
        return UNKNOWN_WORD
    return f"{value:,.1f} GB" if value >= 0.1 else f"{value * 1000:.3g} MB"
