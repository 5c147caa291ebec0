"""The hardware ladder, from the desk to the data centre: cost of this run on each step, once and per year."""

from collections.abc import Mapping, Sequence
from typing import Any

from snaketune.plan.costs.budget import annual_usd, electricity_usd, is_short
from snaketune.plan.devices.hardware import Hardware, LadderStep
from snaketune.settings.plan_section import PlanSection


def ladder_table(
    steps: Sequence[LadderStep],
    catalogue: Sequence[Hardware],
    fit: Sequence[Mapping[str, Any]],
    method: str,
    plan: PlanSection,
) -> list[dict[str, Any]]:
    """Return one row per step: its cheapest device on which the run fits, with hours and dollars.

    Devices with a price come before those without, then the faster ones; None is unknown. The hours are those of
    training alone on one device, estimated in the same way for all. A year of runs that take less than a minute has no
    price: it would be that of an idle computer.

    Args:
        steps: of the ladder.
        catalogue: the devices.
        fit: the fit table.
        method: of the run, as the fit table names it.
        plan: the ``plan`` section: electricity, runs in a year and years of use.
    """
    devices = {device.id: device for device in catalogue}
    cells = {row["id"]: row["methods"].get(method) for row in fit}
    rows = []
    for step in steps:
        found = [_offer(step, devices[name], cells.get(name), plan) for name in step.devices]
        fitting = [offer for offer in found if offer["verdict"] == "fits"]
        best = min(fitting, key=_order) if fitting else _none(found)
        rows.append({"step": step.id, "title": step.title, "pays": step.pays, **best, "origin": "estimated"})
    return rows


def _order(offer: Mapping[str, Any]) -> tuple[bool, float, bool, float]:
    cost, hours = offer["usd_per_run"], offer["train_hours"]
    return cost is None, cost or 0.0, hours is None, hours or 0.0


def _none(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the row of a step without a device on which the run fits for certain: that of the closest one."""
    order = {"tight": 0, "no": 1, "unknown": 2}
    nearest = min(found, key=lambda offer: (order[offer["verdict"]], -(offer["memory_gb"] or 0.0)))
    return {**nearest, "train_hours": None, "is_short": False, "usd_per_run": None, "usd_per_year": None}


def _offer(step: LadderStep, device: Hardware, cell: Mapping[str, Any] | None, plan: PlanSection) -> dict[str, Any]:
    hours = cell["train_hours"] if cell else None
    hourly = _hourly(step, device, plan)
    once = hours * hourly if hours is not None and hourly is not None else None
    bought = device.buy.usd if device.buy and step.pays == "electricity" else None
    is_known = once is not None and (step.pays == "rent" or bought is not None) and not is_short(hours)
    runs, years = plan["trainings_per_year"], plan["years_of_use"]
    return {
        "device": device.id,
        "device_title": device.title,
        "memory_gb": device.memory_gb,
        "verdict": cell["verdict"] if cell else "unknown",
        "with": cell["with"] if cell else {},
        "train_hours": hours,
        "is_short": is_short(hours),
        "usd_per_run": once,
        "hardware_usd": bought,
        "usd_per_year": annual_usd(runs, once, bought or 0.0, years) if is_known and once is not None else None,
    }


def _hourly(step: LadderStep, device: Hardware, plan: PlanSection) -> float | None:
    if step.pays == "rent":
        return device.rent.usd if device.rent else None
    return electricity_usd(device.watts, 1, plan["electricity_usd_per_kwh"]) if device.watts else None
