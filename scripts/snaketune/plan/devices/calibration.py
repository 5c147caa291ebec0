"""FLOP/s that this device reached in similar runs with other micro-batches, lengths or ranks.

A run of the same kind predicts the next one directly (``past_runs``). Another run of about this size still shows the
FLOP/s that the device reaches, which is better than a fraction of a peak, and on a CPU the only source.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from snaketune.plan.costs.past_runs import NEWEST, PastRun, finished_runs, measured_run
from snaketune.plan.devices.target import Target

EQUAL_SETTINGS = ("model.quantization", "adapter.type", "train.method", "gpus")
"""Settings that have to be the same; sizes may differ by a factor of two."""
SIZE_FACTOR = 2.0
BAND = 0.4
"""Relative uncertainty of the throughput to either side: other shapes keep a device more or less busy."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """FLOP/s that one device reached: the median of the newest runs, with the lowest and the highest."""

    flops_per_second: float
    lowest: float
    highest: float
    runs: tuple[str, ...]


def find_calibration(
    results: Path, own: Path, speed: Mapping[str, Any], target: Target, host: str
) -> Calibration | None:
    """Return the FLOP/s of runs of about this size on this device; None without any.

    Args:
        results: the results folder.
        own: the folder of the run being planned.
        speed: its speed key.
        target: the device.
        host: this machine, which matters on a CPU.
    """
    found: list[tuple[PastRun, float]] = []
    for folder, info, plan in finished_runs(results, target, host):
        flops = plan["rate"]["flops_per_token"]
        # The run's own earlier result is a measurement, which find_measurement handles.
        if folder == own or not flops or not _is_comparable(plan["speed"], speed):
            continue
        found += [(run, run.rate * flops) for run in measured_run(folder, info, plan, None, speed["gpus"])]
    # Only the newest: a driver or library update changes what a device reaches.
    newest = sorted(found, key=lambda one: one[0].finished)[-NEWEST:]
    if not newest:
        return None
    reached = [flops for _, flops in newest]
    return Calibration(median(reached), min(reached), max(reached), tuple(run.name for run, _ in newest))


def _is_comparable(theirs: Mapping[str, Any], speed: Mapping[str, Any]) -> bool:
    sizes = theirs.get("parameters"), speed["parameters"]
    if not all(sizes) or not 1 / SIZE_FACTOR <= sizes[0] / sizes[1] <= SIZE_FACTOR:
        return False
    return all(theirs.get(name) == speed.get(name) for name in EQUAL_SETTINGS)
