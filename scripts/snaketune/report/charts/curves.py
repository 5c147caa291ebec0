"""The metrics that a training logged: curves over steps, and the progress of each step in tokens and time."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snaketune.facts.lines import MetricsLine, parse_fact_line
from snaketune.report.charts.downsampling import Point

CURVES = (
    "loss",
    "eval_loss",
    "learning_rate",
    "grad_norm",
    "reward_margin",
    "reward_accuracy",
    "reward",
    "completion_length",
)
# Measured on a machine: these differ between otherwise identical trainings.
MACHINE_RATES = ("tokens_per_second", "mfu", "memory_gb", "gpu_utilization")
SPENT = ("data_seconds", "compute_seconds", "evaluation_seconds", "checkpoint_seconds")


@dataclass(frozen=True, slots=True)
class Curve:
    """The values of one metric over the optimizer steps; ``gaps`` counts steps without a finite value."""

    points: tuple[Point, ...] = ()
    gaps: int = 0


@dataclass(frozen=True, slots=True)
class StepProgress:
    """Progress at a step: real tokens and seconds of training so far (None if not logged)."""

    tokens: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """A metrics file: the training decides ``curves``; ``rates`` and the seconds of ``progress`` are measured."""

    curves: Mapping[str, Curve] = field(default_factory=dict)
    rates: Mapping[str, Curve] = field(default_factory=dict)
    progress: Mapping[int, StepProgress] = field(default_factory=dict)


def gather(lines: Iterable[Mapping[str, Any]]) -> Metrics:
    """Return the curves of the lines of ``metrics.jsonl``, in their order.

    The seconds of a resumed training continue from those before the interruption, without the time in between.
    """
    points: dict[str, list[Point]] = {name: [] for name in (*CURVES, *MACHINE_RATES)}
    gaps: Counter[str] = Counter()
    progress: dict[int, StepProgress] = {}
    tokens: int | None = None
    seconds: float | None = 0.0
    for line in lines:
        step = int(line["step"])
        for name, curve in points.items():
            if line.get(name) is not None:
                curve.append((step, float(line[name])))
            elif name in line:
                gaps[name] += 1
        if line.get("tokens") is not None:
            # Summed from the intervals rather than read from a clock, so that an interruption leaves no gap.
            spent = _seconds(line, line["tokens"] - (tokens or 0))
            seconds = None if spent is None or seconds is None else seconds + spent
            tokens = int(line["tokens"])
        progress[step] = StepProgress(tokens, seconds if tokens else None)
    found = {name: Curve(tuple(curve), gaps[name]) for name, curve in points.items()}
    return Metrics({name: found[name] for name in CURVES}, {name: found[name] for name in MACHINE_RATES}, progress)


def _seconds(line: Mapping[str, Any], tokens: int) -> float | None:
    """Return the seconds of an interval of a number of tokens, as logged or from the throughput."""
    if any(name in line for name in SPENT):
        return sum(line.get(name) or 0.0 for name in SPENT)
    rate = line.get("tokens_per_second")
    return tokens / rate if rate else None


def growing_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file that may still be written to; a half-written last line is left out.

    Raises:
        DataError: if an earlier line is damaged.
    """
    try:
        # What follows the last line end is empty or still being written.
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [parse_fact_line(path, number, line, MetricsLine) for number, line in enumerate(lines, 1) if line]
