"""A plan as a page: what a run will take, where it fits and what follows, a pure function of plan.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from snaketune.report import units
from snaketune.report.comparison import hours
from snaketune.report.filling import fill
from snaketune.report.planning import METHODS, VERDICTS, dollars
from snaketune.report.text import excerpt

UNKNOWN = "unknown"
MONDAY = datetime(2024, 1, 1)
"""Any Monday at 0:00: the page has no clock, so that starts are days of a week."""
STARTS = {"Monday 9:00": 9, "Wednesday 18:00": 2 * 24 + 18, "Friday 18:00": 4 * 24 + 18, "Saturday 9:00": 5 * 24 + 9}
"""Hours after Monday 0:00."""
SHORT, NEXT_TO_NOTHING = "under a minute", "next to nothing"
COUNTED = "counted in the packed rows"
STRATEGIES = {
    "single": "One GPU",
    "ddp": "DDP",
    "fsdp": "FSDP",
    "deepspeed_zero2": "ZeRO-2",
    "deepspeed_zero3": "ZeRO-3",
}
MEMORY_PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "head", "workspace", "context")
SHORT_KEYS = {
    "train.gradient_checkpointing": "layers recomputed",
    "train.checkpoint_every_n_layers": "every n-th layer",
    "train.per_device_train_batch_size": "rows at once",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of the plan: value, how it came about, between what it lies, and where it comes from."""

    label: str
    value: str
    origin: str
    band: str
    source: str


def render_plan(plan: Mapping[str, Any], name: str, id: str) -> str:
    """Return the plan of the run ``name`` as one self-contained HTML page; equal plans give equal bytes.

    Args:
        plan: the content of plan.json.
        name: of the run.
        id: of its folder.
    """
    return fill("plan.html.j2", **sections(plan), name=excerpt(name, 100).text, run_id=id)


def sections(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template shows; every number is text already."""
    device = plan["device"]
    return {
        "device": f"{units.count(device['gpus'])} x {excerpt(device['title'], 100).text}",
        "is_here": device["is_here"],
        "tone": tone(plan),
        "headline": headline(plan),
        "sentence": sentence(plan),
        "figures": figures(plan),
        "calendar": calendar(plan),
        "planned": planned(plan),
        "overheads": overheads(plan),
        "costs": [(excerpt(row["name"], 100).text, dollars(row["usd"]), row["origin"]) for row in plan["costs"]],
        "ownership": ownership(plan["ownership"]),
        "fit_header": fit_header(plan),
        "fit": fit(plan),
        "ladder": ladder(plan),
        "strategies": strategies(plan),
        "rule": strategy_rule(plan),
        "sensitivity": sensitivity(plan),
        "advice": plan["advice"],
        "limits": limits(plan),
        "work": work(plan),
        "memory": memory(plan),
        "assumptions": assumptions(plan),
        "notes": plan["notes"],
    }


def tone(plan: Mapping[str, Any]) -> str:
    """Return the tone of the verdict: better within all limits, worse over one, few where it is not known."""
    if any(over(plan, limit, name) for limit, name in LIMITS):
        return "worse"
    return "few" if plan["hours"] is None else "better"


LIMITS = (("max_hours", "hours"), ("max_cost_usd", "total_usd"))


def over(plan: Mapping[str, Any], limit: str, name: str) -> bool:
    """Tell whether a number of the plan exceeds its limit."""
    wanted, value = plan["limits"][limit], plan[name]
    return wanted is not None and value is not None and value > wanted


def headline(plan: Mapping[str, Any]) -> str:
    """Return the plan in a few words."""
    if plan["hours"] is None:
        return "How long it takes is not known yet"
    cost = "" if plan["cost_usd"] is None else f" for {dollars(plan['cost_usd'])}"
    exceeds = ", more than it may" if tone(plan) == "worse" else ""
    return f"{time(plan['hours'])} from start to end{cost}{exceeds}"


def sentence(plan: Mapping[str, Any]) -> str:
    """Return how much work it is and what makes the rest known."""
    tokens, steps = units.count(plan["tokens_total"], "token"), units.count(plan["steps"], "optimizer step")
    done = f"{tokens} in {steps}, on {units.count(plan['device']['gpus'])} x {plan['device']['title']}."
    if plan["hours"] is None:
        return f"{done} Hours, dollars and the end become known with a first run, or a probe, on this device."
    return f"{done} The rate is {plan['rate']['origin']}: {excerpt(plan['rate']['source'], 300).text}."


def time(value: float | None) -> str:
    """Return hours as a duration."""
    return UNKNOWN if value is None else hours(value * 3600)


def gigabytes(value: float | None) -> str:
    """Return GB (10⁹ bytes) as a size."""
    return UNKNOWN if value is None else units.file_size(round(value * 1e9))


def _whole(value: float | None) -> str:
    return UNKNOWN if value is None else units.count(round(value))


def _rate(value: float | None) -> str:
    return UNKNOWN if value is None else f"{units.significant(value)} tokens/s"


def figures(plan: Mapping[str, Any]) -> list[Figure]:
    """Return the public numbers of the plan and the rate they rest on."""
    rate = plan["rate"]
    rows = [
        ("Tokens", _whole, "tokens_total"),
        ("Optimizer steps", _whole, "steps"),
        ("Training", time, "train_hours"),
        ("From start to end", time, "hours"),
        ("Cost of computing", dollars, "cost_usd"),
        ("Cost of everything given", dollars, "total_usd"),
        ("Peak memory of one device", gigabytes, "memory_gb"),
        ("Disk", gigabytes, "disk_gb"),
    ]
    found = [_figure(label, write, plan[name], plan["about"][name]) for label, write, name in rows]
    return [*found[:2], _figure("Rate of one device", _rate, rate["tokens_per_second"], rate), *found[2:]]


def _figure(label: str, write: Any, value: Any, about: Mapping[str, Any]) -> Figure:
    low, high = about["low"], about["high"]
    return Figure(
        label=label,
        value=write(value),
        origin=UNKNOWN if value is None else "counted" if about["source"] == COUNTED else about["origin"],
        band="" if value is None or low is None else f"{write(low)} to {write(high)}",
        source=excerpt(about["source"], 300).text,
    )


def calendar(plan: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return for some starts in a week when the run is done, and between when; nothing for unknown hours."""
    if plan["hours"] is None:
        return []
    about = plan["about"]["hours"]
    return [
        (name, end_of(start, plan["hours"]), _between(start, about["low"], about["high"]))
        for name, start in STARTS.items()
    ]


def end_of(start: float, duration: float) -> str:
    """Return the day and time ``duration`` hours after a start (hours after Monday 0:00): ``Saturday 7:40``."""
    end = MONDAY + timedelta(hours=start + duration)
    weeks = (end.date() - (MONDAY + timedelta(hours=start)).date()).days // 7
    later = "" if weeks == 0 else f", {units.count(weeks, 'week')} later"
    return f"{end:%A} {end.hour}:{end:%M}{later}"


def _between(start: float, low: float | None, high: float | None) -> str:
    if low is None or high is None or end_of(start, low) == end_of(start, high):
        return ""
    return f"{end_of(start, low)} to {end_of(start, high)}"


def planned(plan: Mapping[str, Any]) -> str:
    """Return when the plan was made and when the run would have ended from then."""
    made = datetime.fromisoformat(plan["planned_at"])
    if plan["finishes_at"] is None:
        return f"Planned on {made:%A, %d %B %Y, %H:%M}."
    end = datetime.fromisoformat(plan["finishes_at"])
    return f"Planned on {made:%A, %d %B %Y, %H:%M}: started then, it ends on {end:%A, %d %B, %H:%M}."


def overheads(plan: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what comes on top of training: label, value, origin."""
    found, origin = plan["overheads"], plan["rate"]["origin"]
    saves = UNKNOWN if found["saves"] is None else units.count(found["saves"], "checkpoint")
    share = "" if found["checkpoint_share"] is None else f", {units.percent(found['checkpoint_share'])} of the time"
    rows = [
        (f"Checkpoints ({saves}{share})", time(found["checkpoint_hours"]), found["saves_origin"]),
        (f"Evaluations on the way ({found['evaluations']})", time(found["evaluation_hours"]), origin),
        ("Start: loading, compiling", time(found["start_hours"]), origin),
    ]
    stages = (plan.get("preparation") or {}).get("seconds") or {}
    return rows + [
        (f"Data: {excerpt(name, 60).text}", hours(seconds), "measured before") for name, seconds in stages.items()
    ]


def ownership(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return renting and buying side by side; what is not known is said to be."""
    if found.get("is_short"):
        return [("A training of less than a minute", "is no reason to rent or buy anything")]
    runs = found["break_even_runs"]
    return [
        ("Rented, a run", dollars(found["rented_usd_per_run"])),
        ("On hardware of one's own, a run (electricity)", dollars(found["owned_usd_per_run"])),
        ("The hardware", dollars(found["hardware_usd"])),
        ("Paid for after", UNKNOWN if runs is None else f"{units.count(-int(-runs // 1))} runs"),
        (f"Rented, {found['trainings_per_year']} runs a year", dollars(found["rented_usd_per_year"])),
        (f"Bought for {found['years_of_use']:g} years, a year", dollars(found["owned_usd_per_year"])),
    ]


def fit_header(plan: Mapping[str, Any]) -> list[str]:
    """Return the methods of the fit table."""
    return [METHODS[name] for name in _methods(plan)]


def _methods(plan: Mapping[str, Any]) -> list[str]:
    return [name for name in METHODS if plan["fit"] and name in plan["fit"][0]["methods"]]


def fit(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per GPU: for each method whether it fits, and with what or why not."""
    return [
        {
            "title": row["title"],
            "memory": gigabytes(row["memory_gb"]),
            "cells": [fit_cell(row["methods"][name], row["memory_gb"]) for name in _methods(plan)],
        }
        for row in plan["fit"]
    ]


def fit_cell(cell: Mapping[str, Any], memory_gb: float | None) -> tuple[str, str]:
    """Return the verdict of a method on a GPU and, in smaller print, with what setting or why not."""
    needs = gigabytes(cell["needs_gb"])
    if cell["verdict"] == "no":
        return VERDICTS["no"], f"needs {needs} of {gigabytes(memory_gb)} at least"
    if cell["verdict"] == "unknown":
        return VERDICTS["unknown"], "its memory is not in the catalogue"
    facts = [needs] + [_elsewhere(cell)] * (cell["train_hours"] is not None)
    facts += [dollars(cell["cost_usd"])] * (cell["cost_usd"] is not None and not cell.get("is_short"))
    changes = [
        SHORT_KEYS.get(key, key) if value is True else f"{SHORT_KEYS.get(key, key)}: {value}"
        for key, value in cell["with"].items()
    ]
    return VERDICTS[cell["verdict"]], ", ".join([*facts, *changes])


def _elsewhere(row: Mapping[str, Any]) -> str:
    """Return the hours of training on another device; seconds of it are not told, which loading would drown."""
    return SHORT if row.get("is_short") else time(row["train_hours"])


def ladder(plan: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the steps from a computer at home to a data centre, each with the device that the run fits there."""
    return [
        {
            "title": excerpt(row["title"], 80).text,
            "device": excerpt(row["device_title"], 80).text,
            "verdict": VERDICTS.get(row["verdict"], row["verdict"]),
            "hours": _elsewhere(row),
            "run": NEXT_TO_NOTHING if row.get("is_short") else dollars(row["usd_per_run"]),
            "year": NEXT_TO_NOTHING if row.get("is_short") else dollars(row["usd_per_year"]),
        }
        for row in plan.get("ladder") or []
    ]


def strategies(plan: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return one GPU and several, side by side."""
    return [
        {
            "name": f"{STRATEGIES.get(row['strategy'], row['strategy'])}, {row['gpus']} x",
            "speed_up": f"{units.significant(row['speed_up_at_best'])} x",
            "price": f"{units.significant(row['price_ratio'])} x",
            "needed": "" if row["gpus"] == 1 else units.percent(row["break_even_efficiency"]),
            "hours": time(row["hours_at_best"]),
            "cost": dollars(row["cost_usd_at_best"]),
            "memory": gigabytes(row["memory_gb_per_gpu"]),
        }
        for row in plan["strategies"]
    ]


def strategy_rule(plan: Mapping[str, Any]) -> str:
    """Return the rule by which several GPUs are cheaper, with the numbers of this run; empty on a CPU."""
    several = [row for row in plan["strategies"] if row["gpus"] > 1]
    if not several:
        return ""
    row = several[0]
    return (
        f"Several GPUs are cheaper only if the speed-up exceeds the ratio of the prices:"
        f" {units.count(row['gpus'])} at {units.significant(row['price_ratio'])} times the price have to be more than"
        f" {units.significant(row['price_ratio'])} times as fast, {units.percent(row['break_even_efficiency'])} of the"
        " ideal. All have the same settings."
    )


def sensitivity(plan: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what one change each does; hours and dollars are unknown where the rate is."""
    return [
        {
            "change": excerpt(row["change"], 120).text,
            "means": excerpt(row["means"], 200).text,
            "steps": units.count(row["steps"]),
            "hours": time(row["hours"]),
            "reduction": units.percent(row["time_reduction"]),
            "speed_up": f"{units.significant(row['speed_up'])} x",
            "saved": dollars_saved(row["usd_saved"]),
        }
        for row in plan["sensitivity"]
    ]


def dollars_saved(value: float | None) -> str:
    """Return dollars that are saved; lost ones have a minus sign."""
    if value is None:
        return UNKNOWN
    return f"{units.MINUS if value < 0 else ''}{dollars(abs(value))}"


def limits(plan: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return the limits that were given: key, limit, planned, and whether it is exceeded."""
    writers = {"max_hours": time, "max_cost_usd": dollars}
    return [
        (f"plan.{limit}", writers[limit](plan["limits"][limit]), writers[limit](plan[name]), over(plan, limit, name))
        for limit, name in LIMITS
        if plan["limits"][limit] is not None
    ]


def work(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was counted of model and data."""
    found = plan["work"]
    labels = {
        "parameters": "Parameters",
        "trained": "Trained parameters",
        "documents": "Documents",
        "tokens": "Tokens in an epoch",
        "rows": "Rows in an epoch",
        "row_length": "Tokens in a row",
    }
    filled = found["tokens"] / (found["rows"] * found["row_length"]) if found["rows"] else None
    rows = [(label, units.count(found[name])) for name, label in labels.items()]
    return [*rows, ("Filled places of the rows", units.percent(filled))]


def memory(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the parts of the memory of one device."""
    parts = plan["memory"]
    return [(name.capitalize(), gigabytes(parts[name])) for name in MEMORY_PARTS if parts.get(name)]


def assumptions(plan: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what the plan rests on: what, in words, and whether it is measured, estimated or unknown."""
    device, rate, found = plan["device"], plan["rate"], plan["overheads"]
    price = device["price_per_gpu_hour"]
    save = found["seconds_per_save"]
    rows = [
        ("Tokens and steps", COUNTED, "measured"),
        ("Rate of one device", rate["source"], rate["origin"]),
        ("Price of an hour", device["price_source"], "unknown" if price is None else "given"),
        ("Seconds per checkpoint", UNKNOWN if save is None else hours(save), found["saves_origin"]),
        ("Memory", plan["about"]["memory_gb"]["source"], plan["about"]["memory_gb"]["origin"]),
        ("Other devices", "their peak rates and prices in config/hardware.yaml", "estimated"),
        ("Several GPUs", "at their best possible speed-up; less is usual", "estimated"),
    ]
    others = [row["name"] for row in plan["costs"] if row["origin"] == UNKNOWN and row["usd"] is None]
    rows += [("Not counted", ", ".join(others), UNKNOWN)] if others else []
    return [(what, excerpt(words, 300).text, origin) for what, words, origin in rows]
