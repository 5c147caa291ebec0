"""Comparison of several runs: differing settings, results, and overlaid curves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from snaketune.core.canonical import Json
from snaketune.facts.evaluation_facts import EVALUATION, Evaluation
from snaketune.facts.lines import MetricsLine, read_lines
from snaketune.facts.measured import EVALUATION_INFO, RUN_INFO, EvaluationInfo, RunInfo
from snaketune.facts.plan_facts import PLAN, Plan
from snaketune.facts.run_facts import RUN, RunIdentity
from snaketune.facts.training_facts import TRAINED, Trained
from snaketune.report import units
from snaketune.report.run.reproducing import shown_value
from snaketune.report.text import excerpt

NOT_SET = "not set"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The facts of one finished run that a comparison needs; ``info`` holds what was measured on its machine."""

    name: str
    folder: Path
    run: RunIdentity
    evaluation: Evaluation
    adapter: Trained
    info: RunInfo
    lines: tuple[Json, ...]
    plan: Plan | None = None
    timing: EvaluationInfo | None = None


@dataclass(frozen=True, slots=True)
class ChangedSetting:
    """A configuration key whose values differ between the runs."""

    key: str
    values: tuple[str, ...]


def load_run(folder: Path) -> RunFacts:
    """Read the facts in a run's folder.

    Raises:
        DataError: if a fact file is missing, damaged or of a newer format.
    """
    run, plan, timing = RUN.read(folder / "run.json"), folder / "plan.json", folder / "evaluation_info.json"
    return RunFacts(
        name=run["run"] or folder.parent.name,
        folder=folder,
        run=run,
        evaluation=EVALUATION.read(folder / "evaluation.json"),
        adapter=TRAINED.read(folder / "adapter.manifest.json"),
        info=RUN_INFO.read(folder / "run_info.json"),
        lines=tuple(read_lines(folder / "metrics.jsonl", MetricsLine)),
        plan=PLAN.read(plan) if plan.is_file() else None,
        timing=EVALUATION_INFO.read(timing) if timing.is_file() else None,
    )


def changed_settings(runs: Sequence[RunFacts]) -> list[ChangedSetting]:
    """Return the keys whose values differ between the runs, sorted; a missing key shows as not set."""
    tables = [run.run["config"] for run in runs]
    keys = sorted({key for table in tables for key in table})
    rows = []
    for key in keys:
        values = tuple(shown_value(table[key]["value"]) if key in table else NOT_SET for table in tables)
        if len(set(values)) > 1:
            rows.append(ChangedSetting(key, values))
    return rows


def relative(value: float | None, first: float | None) -> str:
    """Return the relative difference of a value from the first run's, in percent."""
    if value is None or not first:
        return ""
    if value == first:
        return "equal"
    change = (value - first) / abs(first)
    return f"{'+' if change > 0 else units.MINUS}{units.significant(abs(change) * 100, 2)}%"


def hours(seconds: float | None) -> str:
    """Return a duration in seconds, minutes or hours."""
    if seconds is None:
        return units.NOT_MEASURED
    for size, name in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{units.significant(seconds / size)} {name}"
    return f"{units.significant(seconds)} s"


def throughput(run: RunFacts) -> float | None:
    """Return real tokens per second of training: the median over the logged intervals, as measured there."""
    return median(line["tokens_per_second"] for line in run.lines if line.get("tokens_per_second"))


def median(values: Iterable[float]) -> float | None:
    """Return the median of some values, the upper one of two; None without any."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None


def training_seconds(run: RunFacts) -> float | None:
    """Return the wall time of training, or None for a resumed run, whose clock saw only its last part."""
    return None if run.info["resumed_from_step"] else run.info["train"]["seconds"]


def price_per_hour(plan: Plan | None) -> float | None:
    """Return what an hour on the machine that trained costs in US dollars, None where no price is known for it."""
    if plan is None or plan["device"]["is_here"] is False:
        return None
    price, gpus = plan["device"]["price_per_gpu_hour"], plan["device"]["gpus"] or 1
    return price * gpus if price else None


def cost(run: RunFacts) -> float | None:
    """Return what the computing of training cost in US dollars, from its measured time."""
    seconds, price = training_seconds(run), price_per_hour(run.plan)
    return None if seconds is None or price is None else seconds / 3600 * price


def compared_dollars(value: float | None) -> str:
    """Return US dollars; less than ten cents with three significant digits."""
    if value is None:
        return "unknown"
    return f"${value:,.2f}" if value >= 0.1 or value == 0 else f"${units.significant(value)}"


def peak_memory(run: RunFacts) -> int | None:
    """Return the peak memory of training in bytes: the GPU's where there was one."""
    return peak_bytes_of(run.info)


def peak_bytes_of(info: RunInfo) -> int | None:
    """Return the peak memory that a run_info.json states, in bytes."""
    return info["peak_memory"]["gpu_bytes"] or info["peak_memory"]["resident_bytes"]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A point of a curve: optimizer step, real tokens, seconds and dollars of training so far, and the value."""

    step: int
    tokens: int
    seconds: float
    value: float
    dollars: float | None = None


def curve(run: RunFacts, key: str) -> list[CurvePoint]:
    """Return the points of ``key``; seconds add up the intervals' tokens over their measured tokens per second."""
    points, tokens, seconds = [], 0, 0.0
    price = price_per_hour(run.plan)
    for line in run.lines:
        if line.get("tokens_per_second") and line.get("tokens"):
            seconds += (line["tokens"] - tokens) / line["tokens_per_second"]
        tokens = line.get("tokens") or tokens
        if line.get(key) is not None:
            paid = None if price is None else seconds / 3600 * price
            points.append(CurvePoint(int(line["step"]), tokens, seconds, float(line[key]), paid))
    return points


def labels(runs: Sequence[RunFacts]) -> list[str]:
    """Return the display name of each run: its name, with the id if two variants share it."""
    names = [run.name for run in runs]
    return [
        excerpt(name if names.count(name) == 1 else f"{name} {run.folder.name}", 60).text
        for name, run in zip(names, runs, strict=True)
    ]
