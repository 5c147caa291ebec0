"""Rows of measures of several runs, and the best run of each if it is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.facts.evaluation_facts import Interval, score
from snaketune.report import units
from snaketune.report.compare.comparison import (
    RunFacts,
    compared_dollars,
    cost,
    hours,
    peak_memory,
    relative,
    throughput,
    training_seconds,
)
from snaketune.report.compare.paired import Shared, compare_runs, scored
from snaketune.report.run.evaluation_table import METRICS, Metric

SAME_MEASURE = 0.001
"""Relative difference below which two counted values are called equal."""
NOISE = 0.1
"""The same for values measured once by one training on one GPU."""


@dataclass(frozen=True, slots=True)
class ComparedMeasure:
    """One measure over the runs.

    ``differences`` are to the first run, ``intervals`` belong to them; ``best`` marks the runs with the best value,
    where that is known.
    """

    label: str
    meaning: str
    values: tuple[str, ...]
    differences: tuple[str, ...]
    best: tuple[bool, ...]
    intervals: tuple[str, ...] = ()


class Pairs:
    """Differences between any two of several runs; each pair is compared once."""

    def __init__(self, runs: Sequence[RunFacts]) -> None:
        self._scored = [scored(run) for run in runs]
        self._found: dict[tuple[int, int], Shared] = {}

    def between(self, first: int, second: int) -> Shared:
        """Return the second run minus the first."""
        key = (first, second)
        if key not in self._found:
            self._found[key] = compare_runs(self._scored[first], self._scored[second])
        return self._found[key]

    def leading(self, key: str, values: Sequence[float | None], higher_is_better: bool | None) -> tuple[bool, ...]:
        """Return which runs have the best value of a measure: all that are not clearly worse than the best one.

        No run leads if all do, if a difference has no interval, or if the differences on shared records contradict the
        values.
        """
        nobody = (False,) * len(values)
        known = [place for place, value in enumerate(values) if value is not None]
        if higher_is_better is None or len(known) < 2:
            return nobody
        top = sorted(known, key=lambda place: values[place] or 0.0)[-1 if higher_is_better else 0]
        signs = {place: self.between(top, place).sign(key) for place in known if place != top}
        if set(signs.values()) - {0, -1 if higher_is_better else 1}:
            return nobody
        ahead = {top} | {place for place, sign in signs.items() if sign == 0}
        return nobody if len(ahead) == len(known) else tuple(place in ahead for place in range(len(values)))


def compared_measures(runs: Sequence[RunFacts], pairs: Pairs) -> list[ComparedMeasure]:
    """Return the rows of the comparison: quality first, then what it cost in time, memory, disk and work."""
    rows = []
    for key, metric in METRICS.items():
        values = [score(run.evaluation["tuned"], key) for run in runs]
        if any(value is not None for value in values):
            rows.append(_quality(key, metric, values, pairs))
    steady = on_one_gpu(runs)
    for row in COSTS:
        found = [row.read(run) for run in runs]
        if any(value is not None for value in found):
            rows.append(_cost(row, found, steady))
    return rows


def _quality(key: str, metric: Metric, values: Sequence[float | None], pairs: Pairs) -> ComparedMeasure:
    changes, intervals = [""], [""]
    for place, value in enumerate(values[1:], 1):
        found = pairs.between(0, place).moved.get(key) or Interval()
        write = metric.write_difference
        changes.append(relative(value, values[0]) if metric.write is units.plain else _points(value, values[0]))
        low, high = found.get("low"), found.get("high")
        intervals.append("" if low is None or high is None else f"95%: {write(low)} to {write(high)}")
    best = pairs.leading(key, values, metric.higher_is_better)
    label = f"{metric.label} (tuned)"
    return ComparedMeasure(
        label, metric.meaning, tuple(map(metric.write, values)), tuple(changes), best, tuple(intervals)
    )


def _points(value: float | None, first: float | None) -> str:
    if value is None or first is None:
        return ""
    return "equal" if value == first else units.points(value - first)


@dataclass(frozen=True, slots=True)
class Cost:
    """A row of what a run cost.

    ``is_timed`` marks values that depend on the load of the machine; ``higher_is_better`` is None for values that are
    neither better nor worse.
    """

    label: str
    meaning: str
    write: Callable[[Any], str]
    higher_is_better: bool | None
    read: Callable[[RunFacts], Any]
    is_timed: bool = False


def _cost(row: Cost, values: Sequence[float | None], steady: bool) -> ComparedMeasure:
    winners = best(values, row.higher_is_better, NOISE if row.is_timed else SAME_MEASURE)
    if row.is_timed and not steady:
        winners = (False,) * len(values)
    changes = [relative(value, values[0]) for value in values[1:]]
    return ComparedMeasure(row.label, row.meaning, tuple(map(row.write, values)), ("", *changes), winners)


def on_one_gpu(runs: Sequence[RunFacts]) -> bool:
    """Tell whether all runs trained on the same host and GPU; on a CPU the load of the machine decides over times."""
    places = {(run.info["machine"]["host"], run.info["machine"]["gpu"]["name"]) for run in runs}
    return len(places) == 1 and None not in next(iter(places))


def best(
    values: Sequence[float | None], higher_is_better: bool | None, tolerance: float = SAME_MEASURE
) -> tuple[bool, ...]:
    """Return which runs have the best value; none if all are equal or the value is neither better nor worse."""
    known = [value for value in values if value is not None]
    if higher_is_better is None or len(known) < 2:
        return (False,) * len(values)
    top = max(known) if higher_is_better else min(known)
    winners = tuple(value is not None and abs(value - top) <= tolerance * abs(top) for value in values)
    return (False,) * len(values) if sum(winners) == len(known) else winners


def _hours(value: float | None) -> str:
    return hours(None if value is None else value * 3600)


def _latency(run: RunFacts) -> float | None:
    models = run.timing["models"] if run.timing else {}
    found = (models[name]["latency_median_s"] for name in ("merged", "tuned") if name in models)
    return next((seconds for seconds in found if seconds), None)


def _planned_hours(run: RunFacts) -> float | None:
    return run.plan["hours"] if run.plan else None


def disk(run: RunFacts) -> int | None:
    """Return the bytes of what a run leaves to be used: the adapter or weights, and the merged model."""
    files = [file for name in ("adapter", "merged") for file in _files(run.folder / name)]
    return sum(file.stat().st_size for file in files) or None


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


COSTS: tuple[Cost, ...] = (
    Cost("Training time", "wall time as measured, lower is better", hours, False, training_seconds, True),
    Cost("Planned time", "from start to end, before training", _hours, None, _planned_hours),
    Cost(
        "Cost of computing", "measured time at the plan's price, lower is better", compared_dollars, False, cost, True
    ),
    Cost("Throughput", "real tokens per second as measured, median", units.plain, True, throughput, True),
    Cost("Peak memory", "of training as measured, lower is better", units.file_size, False, peak_memory, True),
    Cost("Latency of an answer", "median as measured, lower is better", hours, False, _latency, True),
    Cost("Disk", "adapter and merged model, lower is better", units.file_size, False, disk),
    Cost("Tokens seen", "in training, padding not counted", units.count, None, lambda run: run.adapter["tokens"]),
    Cost("Optimizer steps", "", units.count, None, lambda run: run.adapter["steps"]),
    Cost("Trainable parameters", "", units.count, None, lambda run: run.adapter["trainable_parameters"]),
)
