"""The page of a plan: requirements of a run, where it fits and what follows; a pure function of plan.json."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, cast

from snaketune.facts.plan_facts import LimitName, Plan
from snaketune.facts.plan_table_facts import Ownership
from snaketune.report import units
from snaketune.report.compare.comparison import compared_dollars, hours
from snaketune.report.filling import fill
from snaketune.report.plan.plan_choices import flow, presets
from snaketune.report.plan.plan_figures import BY_COUNTING, afterwards, overheads, plan_figures
from snaketune.report.plan.plan_tables import (
    UNKNOWN,
    fit_header,
    fit_rows,
    ladder,
    sensitivity_rows,
    size_in_gb,
    strategies,
    strategy_rule,
    time,
)
from snaketune.report.run.reproducing import shown_value
from snaketune.report.text import excerpt

MONDAY = datetime(2024, 1, 1)
"""Any Monday at 0:00: the page has no clock, so starts are given as weekdays."""
STARTS = {"Monday 9:00": 9, "Wednesday 18:00": 2 * 24 + 18, "Friday 18:00": 4 * 24 + 18, "Saturday 9:00": 5 * 24 + 9}
"""Hours after Monday 0:00."""
MEMORY_PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "head", "workspace", "cache", "context")


def render_plan(plan: Plan, name: str, id: str) -> str:
    """Return the plan of the run ``name`` as one self-contained HTML page; equal plans give equal bytes.

    Args:
        plan: the content of plan.json.
        name: of the run.
        id: of its folder.
    """
    return fill("plan.html.j2", **plan_sections(plan), name=excerpt(name, 100).text, run_id=id)


def plan_sections(plan: Plan) -> dict[str, Any]:
    """Return what the template shows; every number is text already."""
    device = plan["device"]
    return {
        "device": f"{units.count(device['gpus'])} x {excerpt(device['title'], 100).text}",
        "is_here": device["is_here"],
        "tone": tone(plan),
        "headline": plan_headline(plan),
        "stops": [excerpt(sentence, 1000).text for sentence in plan.get("stops") or ()],
        "measure": plan["measure"] or "",
        "sentence": work_sentence(plan),
        "figures": plan_figures(plan),
        "calendar": calendar(plan),
        "planned": planned(plan),
        "overheads": overheads(plan),
        "costs": cost_table(plan),
        "ownership": ownership_rows(plan["ownership"]),
        "fit_header": fit_header(plan),
        "fit": fit_rows(plan),
        "ladder": ladder(plan),
        "ladder_timed": any(row["train_hours"] is not None for row in plan["ladder"]),
        "strategies": strategies(plan),
        "rule": strategy_rule(plan),
        "sensitivity": sensitivity_rows(plan),
        "timed": plan["hours"] is not None,
        "priced": plan["cost_usd"] is not None,
        "advice": plan["advice"],
        "flow": flow(plan),
        "presets": presets(plan),
        "presets_priced": any(row["cost_usd"] is not None for row in plan["presets"]),
        "presets_timed": any(row["train_hours"] is not None for row in plan["presets"]),
        "afterwards": afterwards(plan),
        "limits": limit_rows(plan),
        "work": work(plan),
        "memory": memory(plan),
        "assumptions": assumptions(plan),
        "notes": plan["notes"],
    }


def tone(plan: Plan) -> str:
    """Return the tone of the verdict: better within all limits, worse over one, few if unknown."""
    if plan.get("stops") or any(over(plan, limit, name) for limit, name in LIMITS):
        return "worse"
    return "few" if plan["hours"] is None else "better"


LIMITS: tuple[tuple[LimitName, Literal["hours", "total_usd"]], ...] = (
    ("max_hours", "hours"),
    ("max_cost_usd", "total_usd"),
)


def over(plan: Plan, limit: LimitName, name: Literal["hours", "total_usd"]) -> bool:
    """Tell whether a number of the plan exceeds its limit."""
    wanted, value = plan["limits"][limit], plan[name]
    return wanted is not None and value is not None and value > wanted


def plan_headline(plan: Plan) -> str:
    """Return the plan in a few words; first of all whether it fits."""
    if doctored := remedy(plan):
        return f"Does not fit {excerpt(plan['device']['title'], 100).text}{doctored}"
    if plan["hours"] is None:
        return "The duration is not known yet"
    cost = "" if plan["cost_usd"] is None else f" for {compared_dollars(plan['cost_usd'])}"
    exceeds = ", more than it may" if tone(plan) == "worse" else ""
    return f"{time(plan['hours'])} from start to end{cost}{exceeds}"


def remedy(plan: Plan) -> str:
    """Return what makes a run fit its device as the end of a headline; empty where it fits."""
    found = plan["remedy"]
    if not found:
        return ""
    changes = ", ".join(f"{key}: {shown_value(value)}" for key, value in found["changes"].items())
    return f"; this does: {changes} ({size_in_gb(found['needs_gb'])})" if changes else ", whatever is set"


def work_sentence(plan: Plan) -> str:
    """Return the amount of work, and how the unknown numbers become known."""
    tokens, steps = units.count(plan["tokens_total"], "token"), units.count(plan["steps"], "optimizer step")
    done = f"{tokens} in {steps}, on {units.count(plan['device']['gpus'])} x {plan['device']['title']}."
    if plan["hours"] is None:
        return f"{done} Hours, dollars and the end become known with one measurement on this device."
    return f"{done} The throughput is {plan['rate']['origin']}: {excerpt(plan['rate']['source'], 300).text}."


def calendar(plan: Plan) -> list[tuple[str, str, str]]:
    """Return for some starts in a week when the run ends, with its range; nothing for unknown hours."""
    if plan["hours"] is None:
        return []
    about = plan["about"]["hours"]
    return [
        (name, weekday_of_end(start, plan["hours"]), _between(start, about["low"], about["high"]))
        for name, start in STARTS.items()
    ]


def weekday_of_end(start: float, duration: float) -> str:
    """Return the day and time ``duration`` hours after a start (hours after Monday 0:00): ``Saturday 7:40``."""
    end = MONDAY + timedelta(hours=start + duration)
    # Whole weeks between dates, not durations: "Monday" alone would name the wrong one after more than seven days.
    weeks = (end.date() - (MONDAY + timedelta(hours=start)).date()).days // 7
    later = "" if weeks == 0 else f", {units.count(weeks, 'week')} later"
    return f"{end:%A} {end.hour}:{end:%M}{later}"


def _between(start: float, low: float | None, high: float | None) -> str:
    # A range whose ends read the same tells nothing.
    if low is None or high is None or weekday_of_end(start, low) == weekday_of_end(start, high):
        return ""
    return f"{weekday_of_end(start, low)} to {weekday_of_end(start, high)}"


def planned(plan: Plan) -> str:
    """Return when the plan was made and when a run started then would end."""
    made = datetime.fromisoformat(plan["planned_at"])
    if plan["finishes_at"] is None:
        return f"Planned on {made:%A, %d %B %Y, %H:%M}."
    end = datetime.fromisoformat(plan["finishes_at"])
    return f"Planned on {made:%A, %d %B %Y, %H:%M}: started then, it ends on {end:%A, %d %B, %H:%M}."


def cost_table(plan: Plan) -> list[tuple[str, str, str]]:
    """Return what a run costs, and in one row what is not counted."""
    known = [row for row in plan["costs"] if row["usd"] is not None]
    rows = [(excerpt(row["name"], 100).text, compared_dollars(row["usd"]), row["origin"]) for row in known]
    others = ", ".join(excerpt(row["name"], 100).text for row in plan["costs"] if row["usd"] is None)
    return [*rows, ("Not counted or not known", others, "")] if others else rows


def ownership_rows(found: Ownership) -> list[tuple[str, str]]:
    """Return renting and buying side by side; unknown values are marked as such."""
    if found["is_short"]:
        return [("A training of less than a minute", "is not worth renting or buying for")]
    if found["fits"] is False:
        return [("A device that the run does not fit", "is neither rented nor bought for it")]
    runs, years = found["break_even_runs"], found["years_of_use"]
    used = UNKNOWN if years is None else f"{years:g}"
    rows = [
        ("Rented, a run", compared_dollars(found["rented_usd_per_run"])),
        ("On your own hardware, per run (electricity)", compared_dollars(found["owned_usd_per_run"])),
        ("The hardware", compared_dollars(found["hardware_usd"])),
        ("Paid for after", UNKNOWN if runs is None else f"{units.count(-int(-runs // 1))} runs"),
        (f"Rented, {found['trainings_per_year']} runs a year", compared_dollars(found["rented_usd_per_year"])),
        (f"Bought for {used} years, a year", compared_dollars(found["owned_usd_per_year"])),
    ]
    return [row for row in rows if row[1] != UNKNOWN] or [("Rent, hardware and electricity", UNKNOWN)]


def limit_rows(plan: Plan) -> list[tuple[str, str, str, bool]]:
    """Return the limits that were given: key, limit, planned, and whether it is exceeded."""
    writers = {"max_hours": time, "max_cost_usd": compared_dollars}
    return [
        (f"plan.{limit}", writers[limit](plan["limits"][limit]), writers[limit](plan[name]), over(plan, limit, name))
        for limit, name in LIMITS
        if plan["limits"][limit] is not None
    ]


def work(plan: Plan) -> list[tuple[str, str]]:
    """Return what was counted of model and data."""
    found = plan["work"]
    counts = (
        ("Parameters", found["parameters"]),
        ("Trained parameters", found["trained"]),
        ("Documents", found["documents"]),
        ("Tokens in an epoch", found["tokens"]),
        ("Rows in an epoch", found["rows"]),
        ("Tokens in a row", found["row_length"]),
    )
    filled = found["tokens"] / (found["rows"] * found["row_length"]) if found["rows"] else None
    rows = [(label, units.count(number)) for label, number in counts]
    return [*rows, ("Filled positions of the rows", units.percent(filled))]


def memory(plan: Plan) -> list[tuple[str, str]]:
    """Return the parts of the memory of one device."""
    parts = cast(Mapping[str, float | None], plan["memory"])
    return [(name.capitalize(), size_in_gb(parts[name])) for name in MEMORY_PARTS if parts.get(name)]


def assumptions(plan: Plan) -> list[tuple[str, str, str]]:
    """Return the basis of the plan: its inputs in words, and whether each is measured, estimated or unknown."""
    device, rate, found = plan["device"], plan["rate"], plan["overheads"]
    price = device["price_per_gpu_hour"]
    save = found["seconds_per_save"]
    rows = [
        ("Tokens and steps", BY_COUNTING, "measured"),
        ("Throughput of one device", rate["source"], rate["origin"]),
        ("Price of an hour", device["price_source"], "unknown" if price is None else "given"),
        ("Seconds per checkpoint", UNKNOWN if save is None else hours(save), found["saves_origin"]),
        ("Memory", plan["about"]["memory_gb"]["source"], plan["about"]["memory_gb"]["origin"]),
        ("Other devices", "their peak throughput and prices in config/hardware.yaml", "estimated"),
        ("Several GPUs", "at their best possible speed-up; less is usual", "estimated"),
    ]
    others = [row["name"] for row in plan["costs"] if row["origin"] == UNKNOWN and row["usd"] is None]
    rows += [("Not counted", ", ".join(others), UNKNOWN)] if others else []
    return [(what, excerpt(words, 300).text, origin) for what, words, origin in rows]
