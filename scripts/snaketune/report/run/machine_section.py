"""Measurements of the training machine: throughput, time by activity, cost of checkpoints."""

from dataclasses import dataclass

from snaketune.facts.measured import AnswerTimes, EvaluationInfo
from snaketune.report import units
from snaketune.report.charts import axes
from snaketune.report.charts.charts import Chart, curve_chart
from snaketune.report.charts.loss_charts import dollars_per_hour
from snaketune.report.compare.comparison import compared_dollars, hours
from snaketune.report.plan.plan_compared import whole_hours
from snaketune.report.report_facts import RunPageFacts

MODEL_LABELS = {"base": "Base", "tuned": "Base and adapter", "merged": "Merged"}

PARTS = {
    "compute": "Computing",
    "data": "Waiting for data",
    "evaluation": "Evaluating during training",
    "checkpoint": "Writing checkpoints",
}
RATE_ROWS = (
    ("tokens_per_second", "Throughput", "Real tokens per second, padding not counted.", "tokens/s", axes.thousands),
    ("mfu", "Model FLOPs utilisation", "Share of the GPU's peak that the model's own arithmetic reached.", "fraction"),
    ("memory_gb", "Peak memory", "Highest use so far, in GB (10\u2079 bytes): the GPU's, else the process's.", "GB"),
    ("gpu_utilization", "GPU busy", "Per cent of the last moments in which the GPU did something (NVML).", "per cent"),
)


def rate_charts(facts: RunPageFacts) -> list[Chart]:
    """Return the measurements at each logged step, as far as they exist."""
    charts = [curve_chart(facts.rates.get(name), name, *words) for name, *words in RATE_ROWS]
    return [chart for chart in charts if chart]


@dataclass(frozen=True, slots=True)
class BarPart:
    """A part of a whole, as text; ``start`` and ``width`` are per cent of the bar."""

    label: str
    value: str
    share: str
    start: str
    width: str


def time_split(facts: RunPageFacts) -> tuple[BarPart, ...]:
    """Return how the wall time of the training job was spent; the rest is loading, compiling and publishing."""
    spent, whole = facts.measured["seconds"], facts.measured["train"]["seconds"]
    seconds_of = {name: seconds for name, seconds in spent.items() if isinstance(seconds, int | float)}
    if not seconds_of or not whole:
        return ()
    parts = [(words, seconds_of.get(name, 0.0)) for name, words in PARTS.items()]
    rest = max(whole - sum(seconds for _, seconds in parts), 0.0)
    rows, start = [], 0.0
    for words, seconds in [*parts, ("Loading, starting, publishing", rest)]:
        width = 100 * seconds / whole
        rows.append(BarPart(words, hours(seconds), units.percent(seconds / whole), f"{start:.2f}", f"{width:.2f}"))
        start += width
    return tuple(rows)


def checkpoint_rows(facts: RunPageFacts) -> tuple[tuple[str, str], ...]:
    """Return how often progress was saved and what that cost; unknown numbers are left out."""
    found = facts.measured["checkpoints"]
    every, interval, percent = found["save_steps"], found["interval_seconds"], found["cost_percent"]
    price = dollars_per_hour(facts)
    seconds = facts.measured["seconds"]["checkpoint"]
    rows = (
        ("Checkpoints written", units.count(found["checkpoints"])),
        ("How often", _checkpoint_interval(every, interval)),
        ("One takes", _time(found["seconds_per_checkpoint"])),
        ("Of the training time", None if percent is None else units.percent(percent / 100)),
        ("In money", compared_dollars(seconds / 3600 * price) if price and seconds is not None else None),
        ("A crash loses at most", _time(found["crash_loses_seconds"])),
    )
    return tuple((label, value) for label, value in rows if value and value != units.NOT_MEASURED)


def _checkpoint_interval(every: int | str | None, interval: float | None) -> str | None:
    about = None if interval is None else f"about every {hours(interval)}"
    if every is None or every == "auto":
        return about and f"{about}, chosen by cost"
    return f"every {units.count(int(every), 'step')}" + (f", {about}" if about else "")


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else hours(seconds)


@dataclass(frozen=True, slots=True)
class Saving:
    """Tokens that are not trained on, and their cost or saving."""

    label: str
    tokens: str
    share: str
    time: str
    cost: str


def token_costs(facts: RunPageFacts) -> tuple[Saving, ...]:
    """Return the cost of padding, and the savings from tokens that were left out.

    A position takes the same computation whether it holds a token or padding, so the measured time is divided evenly
    over positions: an estimate. Each token that was left out would have taken as much.
    """
    split, sizes = facts.pack["splits"]["train"], facts.rightsize
    rows, length, tokens = split["rows"], facts.pack["row_length"], split["tokens"]
    if not rows or not length or tokens is None:
        return ()
    places = rows * length
    found = [
        ("Cost of padding in the rows", places - tokens),
        ("Saved by cutting tokens off", sizes["tokens_truncated"]),
        ("Saved by dropping tokens", sizes["tokens_dropped"]),
    ]
    return tuple(_saving(facts, label, count, places) for label, count in found if count)


def _saving(facts: RunPageFacts, label: str, tokens: int, places: int) -> Saving:
    seconds = None if facts.measured["resumed_from_step"] is not None else facts.measured["seconds"]["compute"]
    price, share = dollars_per_hour(facts), tokens / places
    return Saving(
        label,
        units.count(tokens),
        units.percent(share),
        units.NOT_MEASURED if seconds is None else hours(seconds * share),
        compared_dollars(None if seconds is None or not price else seconds * share / 3600 * price),
    )


def took(facts: RunPageFacts) -> str:
    """Return time and money of the training in one sentence, with what was planned, as far as they are known."""
    actual, price = whole_hours(facts, facts.measured), dollars_per_hour(facts)
    planned, cost, title = (
        (facts.plan["hours"], facts.plan["cost_usd"], facts.plan["device"]["title"]) if facts.plan else (None,) * 3
    )
    if actual is None:
        return ""
    words = f"Training took {hours(actual * 3600)}" + (f" (planned: {hours(planned * 3600)})" if planned else "")
    if price:
        before = "" if cost is None else f" (planned: {compared_dollars(cost)})"
        words += f" and cost {compared_dollars(actual * price)} of computing{before}"
    device = facts.measured["machine"]["gpu"]["name"] or title
    return f"{words} on {device}." if device else f"{words}."


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    """The speed of one model, as text."""

    model: str
    median: str
    p95: str
    requests: str
    tokens: str
    batch: str


def speeds(timing: EvaluationInfo | None) -> tuple[ModelSpeed, ...]:
    """Return a row per model that was timed."""
    models = timing["models"] if timing else {}
    return tuple(_speed(MODEL_LABELS[name], models[name]) for name in MODEL_LABELS if name in models)


def _speed(name: str, found: AnswerTimes) -> ModelSpeed:
    return ModelSpeed(
        name,
        _seconds(found["latency_median_s"]),
        _seconds(found["latency_p95_s"]),
        units.count(found["latency_requests"]),
        units.significant(found["tokens_per_second"]),
        units.count(found["batch_size"]),
    )


def _seconds(value: float | None) -> str:
    return units.NOT_MEASURED if value is None else f"{units.significant(value)} s"
