"""facts.json: the facts of a run as one table, for notebooks and scripts."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from snaketune.core.canonical import canonical_text
from snaketune.report import units
from snaketune.report.charts.loss_charts import dollars_per_hour
from snaketune.report.compare.comparison import median, peak_bytes
from snaketune.report.facts import Facts, get_path
from snaketune.report.plan.planning import whole_hours
from snaketune.report.run.evaluation import METRICS
from snaketune.report.run.funnel import line_count
from snaketune.report.run.verdict import verdict

Row = dict[str, Any]


Place = str | Callable[[Facts], Any]
"""Where a fact is: a field of :class:`Facts` and the keys in it, joined by dots, or a function that computes it."""


def _rate(facts: Facts) -> float | None:
    curve = facts.rates.get("tokens_per_second")
    return median(value for _, value in curve.points if value) if curve else None


def _hours(facts: Facts) -> float | None:
    return whole_hours(facts, facts.info or {})


def _peak(facts: Facts) -> float | None:
    return peak_bytes(facts.info)


def _cost(facts: Facts) -> float | None:
    hours, price = _hours(facts), dollars_per_hour(facts)
    return hours * price if hours and price else None


def _value(facts: Facts, place: Place) -> Any:
    if callable(place):
        return place(facts)
    field, _, keys = place.partition(".")
    return get_path(getattr(facts, field), keys)


UNITS_OF_METRICS = {
    "loss": "nats per token",
    "perplexity": "",
    "bits_per_byte": "bits per byte",
    "n": "records",
    "n_generated": "requests",
    "n_cut": "answers",
}
COUNTED: tuple[tuple[str, str, Place], ...] = (
    ("data.lines", "lines", line_count),
    ("data.records", "records", "reading.records"),
    ("data.quarantined", "lines", "reading.quarantined"),
    ("data.duplicates", "records", "dedupe.removed"),
    ("data.kept", "records", "dedupe.kept"),
    ("data.train", "records", "split.train"),
    ("data.eval", "records", "split.eval"),
    ("tokens.max_length", "tokens", "rightsize.max_length"),
    ("tokens.longest", "tokens", "rightsize.longest"),
    ("tokens.train", "tokens", "rightsize.tokens"),
    ("tokens.truncated", "tokens", "rightsize.tokens_truncated"),
    ("tokens.dropped", "tokens", "rightsize.tokens_dropped"),
    ("rows.train", "rows", "pack.splits.train.rows"),
    ("rows.length", "tokens", "pack.row_length"),
    ("rows.filled", "fraction", "pack.splits.train.efficiency"),
    ("rows.trained_tokens", "tokens", "pack.splits.train.trainable_tokens"),
    ("training.steps", "steps", "adapter.steps"),
    ("training.tokens", "tokens", "adapter.tokens"),
    ("training.trainable_parameters", "parameters", "adapter.trainable_parameters"),
    ("training.total_parameters", "parameters", "adapter.total_parameters"),
    ("training.loss_last", "nats per token", "adapter.train_loss_last"),
    ("training.kept_step", "step", "adapter.best.kept_step"),
    ("training.stopped_early", "", "adapter.best.stopped_early"),
    ("merge.verdict", "", "merged.check.verdict"),
    ("merge.mean_kl", "nats per token", "merged.check.mean_kl"),
    ("merge.loss_change", "nats per token", "merged.check.loss_change"),
    ("merge.change_kept", "fraction", "merged.check.change_kept"),
    ("merge.rounding", "", "merged.rounding"),
    ("merge.refused", "", "merged.refused.reason"),
)
MEASURED: tuple[tuple[str, str, Place], ...] = (
    ("measured.started", "ISO 8601", "info.train.started"),
    ("measured.finished", "ISO 8601", "info.train.finished"),
    ("measured.hours", "hours", _hours),
    ("measured.seconds.compute", "seconds", "info.seconds.compute"),
    ("measured.seconds.data", "seconds", "info.seconds.data"),
    ("measured.seconds.evaluation", "seconds", "info.seconds.evaluation"),
    ("measured.seconds.checkpoint", "seconds", "info.seconds.checkpoint"),
    ("measured.tokens_per_second", "tokens per second", _rate),
    ("measured.peak_memory", "bytes", _peak),
    ("measured.resumed_from_step", "step", "info.resumed_from_step"),
    ("measured.host", "", "info.machine.host"),
    ("measured.gpu", "", "info.machine.gpu.name"),
    ("measured.git_commit", "", "info.git.commit"),
    ("measured.git_uncommitted", "", "info.git.uncommitted"),
    ("measured.cost", "US dollars", _cost),
)
PLANNED = (
    ("plan.tokens_total", "tokens"),
    ("plan.steps", "steps"),
    ("plan.train_hours", "hours"),
    ("plan.hours", "hours"),
    ("plan.cost_usd", "US dollars"),
    ("plan.memory_gb", "GB"),
    ("plan.disk_gb", "GB"),
)


def fact_table(facts: Facts) -> list[Row]:
    """Return one row per fact: ``run``, ``id``, ``name``, ``value``, ``unit``, ``origin`` and ``volatile``.

    ``origin`` is ``identity``, ``configured``, ``counted``, ``evaluated``, ``planned`` or ``measured``. What may differ
    between two equal runs is ``volatile`` and comes last; values are numbers, texts, true, false or null.
    """
    place = {"run": get_path(facts.run, "run"), "id": get_path(facts.run, "id")}
    rows = [*_identity(facts), *_counted(facts), *_evaluated(facts), *_configured(facts), *_volatile(facts)]
    return [
        {**place, "name": name, "value": _flat(value), "unit": unit, "origin": origin, "volatile": origin in VOLATILE}
        for name, value, unit, origin in rows
        if value is not None
    ]


VOLATILE = ("planned", "measured")
Found = Iterator[tuple[str, Any, str, str]]


def _identity(facts: Facts) -> Found:
    yield "fingerprint", get_path(facts.run, "fingerprint"), "", "identity"
    for kind in ("digests", "versions", "seeds"):
        for name, value in sorted((get_path(facts.run, kind) or {}).items()):
            if name != "code":
                yield f"{kind}.{name}", value, "", "identity"


def _counted(facts: Facts) -> Found:
    for name, unit, place in COUNTED:
        yield name, _value(facts, place), unit, "counted"


def _evaluated(facts: Facts) -> Found:
    found = verdict(facts)
    yield "verdict.outcome", found.outcome, "", "evaluated"
    yield "verdict.headline", found.headline, "", "evaluated"
    for model in ("base", "tuned", "merged"):
        for metric, value in sorted((get_path(facts.evaluation, model) or {}).items()):
            if not isinstance(value, Mapping):
                yield f"evaluation.{model}.{metric}", value, _unit(metric), "evaluated"
    for pair, found in sorted((get_path(facts.evaluation, "differences") or {}).items()):
        for metric, bounds in sorted(found.items()):
            for name, value in sorted(bounds.items()):
                yield f"evaluation.{pair}.{metric}.{name}", value, _unit(metric), "evaluated"


def _unit(metric: str) -> str:
    known = METRICS.get(metric)
    return UNITS_OF_METRICS.get(metric) or ("fraction" if known and known.write is units.percent else "")


def _configured(facts: Facts) -> Found:
    for key, entry in sorted((get_path(facts.run, "config") or {}).items()):
        yield f"config.{key}", entry.get("value"), "", "configured"


def _volatile(facts: Facts) -> Found:
    for name, unit in PLANNED:
        yield name, get_path(facts.plan, name.removeprefix("plan.")), unit, "planned"
    for name, unit, place in MEASURED:
        yield name, _value(facts, place), unit, "measured"


def _flat(value: Any) -> Any:
    return canonical_text(value) if isinstance(value, list | dict) else value


def table_bytes(rows: list[Row]) -> bytes:
    """Return a table as a JSON array with one row a line."""
    lines = [orjson.dumps(row) for row in rows]
    return b"[\n" + b",\n".join(lines) + b"\n]\n"
