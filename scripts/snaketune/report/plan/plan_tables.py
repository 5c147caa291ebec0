"""The tables of a plan: where it fits, what other devices and settings would take, as text."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from snaketune.facts.plan_facts import Plan
from snaketune.facts.plan_table_facts import FitCell, LadderRow
from snaketune.report import units
from snaketune.report.compare.comparison import compared_dollars, hours
from snaketune.report.plan.plan_compared import METHOD_NAMES, VERDICT_NAMES
from snaketune.report.text import excerpt

UNKNOWN = "unknown"
UNDER_A_MINUTE, NEXT_TO_NOTHING = "under a minute", "next to nothing"
STRATEGIES = {
    "single": "One GPU",
    "ddp": "DDP",
    "fsdp": "FSDP",
    "deepspeed_zero2": "ZeRO-2",
    "deepspeed_zero3": "ZeRO-3",
}
SHORT_KEYS = {
    "train.gradient_checkpointing": "layers recomputed",
    "train.checkpoint_every_n_layers": "every n-th layer",
    "train.per_device_train_batch_size": "micro-batch",
}


def time(value: float | None) -> str:
    """Return hours as a duration."""
    return UNKNOWN if value is None else hours(value * 3600)


def size_in_gb(value: float | None) -> str:
    """Return GB (10⁹ bytes) as a size."""
    return UNKNOWN if value is None else units.file_size(round(value * 1e9))


def fit_header(plan: Plan) -> list[str]:
    """Return the methods of the fit table."""
    return [METHOD_NAMES[name] for name in _methods(plan)]


def _methods(plan: Plan) -> list[str]:
    rows = plan["fit"]
    return [name for name in METHOD_NAMES if rows and all(name in row["methods"] for row in rows)]


def fit_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return for each method whether it fits, with which settings, or why not: a row per GPU or equal neighbours."""
    rows = [
        (row["title"], row["memory_gb"], [fit_cell(row["methods"][name], row["memory_gb"]) for name in _methods(plan)])
        for row in plan["fit"]
    ]
    return [_fit_row([(title, size) for title, size, _ in same], cells) for cells, same in _alike(rows)]


def _alike(rows: list[tuple[str, float | None, list[tuple[str, str]]]]) -> Iterator[tuple[Any, list[Any]]]:
    return ((cells, list(same)) for cells, same in groupby(rows, key=lambda row: row[2]))


def _fit_row(devices: list[tuple[str, float | None]], cells: list[tuple[str, str]]) -> dict[str, Any]:
    (first, least), (last, most) = devices[0], devices[-1]
    title = first if len(devices) == 1 else f"{first} to {last}, {units.count(len(devices), 'GPU')}"
    sizes = list(dict.fromkeys([size_in_gb(least), size_in_gb(most)]))
    return {"title": title, "memory": " to ".join(sizes), "cells": cells}


def fit_cell(cell: FitCell, memory_gb: float | None) -> tuple[str, str]:
    """Return the verdict of a method on a GPU and, in smaller print, with what setting or why not."""
    needs, least = size_in_gb(cell["needs_gb"]), cell["least_gb"]
    if cell["verdict"] == "no":
        return VERDICT_NAMES["no"], f"needs {needs} of {size_in_gb(memory_gb)} at least"
    if cell["verdict"] == "unknown":
        return VERDICT_NAMES["unknown"], "its memory is not in the catalogue"
    if least is not None and size_in_gb(least) != needs:
        needs += f" (at least {size_in_gb(least)})"
    facts = [needs] + [_elsewhere(cell)] * (cell["train_hours"] is not None)
    facts += [compared_dollars(cell["cost_usd"])] * (cell["cost_usd"] is not None and not cell["is_short"])
    changes = [
        SHORT_KEYS.get(key, key) if value is True else f"{SHORT_KEYS.get(key, key)}: {value}"
        for key, value in cell["with"].items()
    ]
    return VERDICT_NAMES[cell["verdict"]], ", ".join([*facts, *changes])


def _elsewhere(row: FitCell | LadderRow) -> str:
    """Return the hours of training on another device; seconds are not shown, as loading takes longer."""
    return UNDER_A_MINUTE if row["is_short"] else time(row["train_hours"])


def ladder(plan: Plan) -> list[dict[str, str]]:
    """Return the steps from a computer at home to a data centre, each with the device that the run fits there."""
    return [
        {
            "title": excerpt(row["title"], 80).text,
            "device": excerpt(row["device_title"], 80).text,
            "verdict": VERDICT_NAMES.get(row["verdict"], row["verdict"]),
            "hours": _elsewhere(row),
            "run": NEXT_TO_NOTHING if row["is_short"] else compared_dollars(row["usd_per_run"]),
            "year": NEXT_TO_NOTHING if row["is_short"] else compared_dollars(row["usd_per_year"]),
        }
        for row in plan["ladder"]
    ]


def strategies(plan: Plan) -> list[dict[str, str]]:
    """Return one GPU and several, side by side."""
    return [
        {
            "name": f"{STRATEGIES.get(row['strategy'], row['strategy'])}, {row['gpus']} x",
            "speed_up": f"{units.significant(row['speed_up_at_best'])} x",
            "price": f"{units.significant(row['price_ratio'])} x",
            "needed": "" if row["gpus"] == 1 else units.percent(row["break_even_efficiency"]),
            "hours": time(row["hours_at_best"]),
            "cost": compared_dollars(row["cost_usd_at_best"]),
            "memory": size_in_gb(row["memory_gb_per_gpu"]),
        }
        for row in plan["strategies"]
    ]


def strategy_rule(plan: Plan) -> str:
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


def sensitivity_rows(plan: Plan) -> list[dict[str, str]]:
    """Return the effect of each single change; hours and dollars are unknown if the throughput is."""
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
    return f"{units.MINUS if value < 0 else ''}{compared_dollars(abs(value))}"
