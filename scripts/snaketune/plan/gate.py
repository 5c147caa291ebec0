"""The gate before training: one sentence for each limit of budget or machine that the plan exceeds.

A plan is made in any case; only training refuses to start while its plan has such a sentence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, log10
from typing import Any, Literal

from snaketune.facts.plan_facts import LimitName, Plan
from snaketune.plan.summary import dollars, duration
from snaketune.settings.planning_slice import PlanningSlice

HOURS_SLACK = 0.01
"""Margin that advised settings leave under a limit, for the last batch and the last checkpoint."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Sentences on why a run must not start, and on limits that cannot be checked."""

    stops: tuple[str, ...]
    notes: tuple[str, ...]


def check_plan(plan: Plan) -> Gate:
    """Return the limits that a plan exceeds, each with the planned number and the setting that fits.

    Args:
        plan: the content of plan.json.
    """
    checks = (
        _check_memory(plan),
        _check_disk(plan),
        _check(plan, "max_hours", "hours", duration),
        _check(plan, "max_cost_usd", "total_usd", dollars),
    )
    return Gate(
        tuple(found.sentence for found in checks if found.sentence and found.stops),
        tuple(found.sentence for found in checks if found.sentence and not found.stops),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    sentence: str = ""
    stops: bool = True


def _check(plan: Plan, limit_name: LimitName, name: Literal["hours", "total_usd"], words: Any) -> _Found:
    limit, value, about = plan["limits"][limit_name], plan[name], plan["about"][name]
    if limit is None:
        return _Found()
    if value is None:
        return _Found(f"plan.{limit_name} cannot be checked: {about['source']}.", stops=False)
    if value <= limit:
        return _Found()
    device = plan["device"]
    band = f", {words(about['low'])} to {words(about['high'])}" if about["low"] is not None else ""
    nearest = plan["nearest"]["hours"] or "train less, or on a faster device"
    return _Found(
        f"plan.{limit_name}: {limit:g} but this run is planned to take {words(value)} ({about['origin']}{band}) on"
        f" {device['gpus']} x {device['title']}: {nearest}, or raise the limit."
    )


def nearest_hours(cfg: PlanningSlice, values: Mapping[str, Any], start_hours: float, steps: int) -> str | None:
    """Return the setting that brings a run under its limits of hours and dollars; None if it is under them.

    Args:
        cfg: the ``plan`` and ``train`` sections.
        values: planned ``hours`` and ``cost_usd``.
        start_hours: hours that do not depend on the number of steps.
        steps: planned optimizer steps.
    """
    plan, others = cfg["plan"], sum(cfg["plan"]["other_costs_usd"].values())
    shares = []
    if values["hours"] and plan["max_hours"]:
        shares.append(plan["max_hours"] / values["hours"])
    if values["cost_usd"] and plan["max_cost_usd"]:
        shares.append((plan["max_cost_usd"] - others) / values["cost_usd"])
    share = min(shares, default=1.0)
    if 0 < share < 1:
        fixed = start_hours / values["hours"]
        share = max((share - fixed) / (1 - fixed), 0.0)
    if share >= 1:
        return None
    fewer = floor(steps * share * (1 - HOURS_SLACK))
    if fewer < 1:
        return "not even one step fits: lower plan.other_costs_usd or use a faster device"
    if cfg["train"]["max_steps"] > 0:
        return f"set train.max_steps to {fewer}"
    return f"set train.num_train_epochs to {_floor(cfg['train']['num_train_epochs'] * (fewer - 1) / steps):g}"


def _floor(value: float) -> float:
    """Return ``value`` truncated to three significant digits."""
    size = 10 ** (2 - floor(log10(value))) if value > 0 else 1
    return floor(value * size) / size


def _check_memory(plan: Plan) -> _Found:
    """Stop a run that cannot fit even if the plan overestimates memory by its error band."""
    change, device = plan["nearest"]["memory"], plan["device"]
    if not change or plan["about"]["memory_gb"]["origin"] == "measured":
        return _Found()
    return _Found(
        f"plan.gpu: {device['title']} has {device['memory_gb']:.1f} GB and this run needs"
        f" {plan['memory_gb']:.1f} GB ({plan['about']['memory_gb']['origin']}{_least(plan)}): {change}."
    )


def _least(plan: Plan) -> str:
    least = plan["least_memory_gb"]
    planned = plan["memory_gb"]
    return "" if least is None or planned is None or least >= planned else f", {least:.1f} GB at least"


def _check_disk(plan: Plan) -> _Found:
    """Stop a run that the disk is too small for; for a plan without weights, which never trains here, it is a note."""
    disk = plan["disk"]
    if disk["to_write"] <= disk["free"]:
        return _Found()
    sentence = (
        f"paths.results: {disk['free']:.1f} GB are free on its disk and the run writes {disk['to_write']:.1f} GB"
        f" (checkpoints {disk['checkpoints']:.1f}, merged model {disk['merged']:.1f}): free space, set"
        " paths.results to another disk or lower train.save_total_limit."
    )
    return _Found(sentence, stops=plan["has_weights"] is not False)
