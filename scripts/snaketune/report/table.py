"""facts.json: the facts of a run as one table, for notebooks and scripts."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from snaketune.common.canonical import canonical_text
from snaketune.report import units
from snaketune.report.comparison import median, peak_bytes
from snaketune.report.evaluation import METRICS
from snaketune.report.facts import Facts, look
from snaketune.report.funnel import line_count
from snaketune.report.loss_charts import dollars_per_hour
from snaketune.report.planning import whole_hours

Row = dict[str, Any]


def _rate(facts: Facts) -> float | None:
    curve = facts.rates.get("tokens_per_second")
    return median(value for _, value in curve.points if value) if curve else None


UNITS_OF_METRICS = {
    "loss": "nats per token",
    "perplexity": "",
    "bits_per_byte": "bits per byte",
    "n": "records",
    "n_generated": "requests",
    "n_cut": "answers",
}
COUNTED = (
    ("data.records", "records", lambda facts: look(facts.reading, "records")),
    ("data.quarantined", "lines", lambda facts: look(facts.reading, "quarantined")),
    ("data.duplicates", "records", lambda facts: look(facts.dedupe, "removed")),
    ("data.kept", "records", lambda facts: look(facts.dedupe, "kept")),
    ("data.train", "records", lambda facts: look(facts.split, "train")),
    ("data.eval", "records", lambda facts: look(facts.split, "eval")),
    ("tokens.max_length", "tokens", lambda facts: facts.rightsize.get("max_length")),
    ("tokens.longest", "tokens", lambda facts: facts.rightsize.get("longest")),
    ("tokens.train", "tokens", lambda facts: facts.rightsize.get("tokens")),
    ("tokens.truncated", "tokens", lambda facts: facts.rightsize.get("tokens_truncated")),
    ("tokens.dropped", "tokens", lambda facts: facts.rightsize.get("tokens_dropped")),
    ("rows.train", "rows", lambda facts: look(facts.pack, "splits.train.rows")),
    ("rows.length", "tokens", lambda facts: look(facts.pack, "row_length")),
    ("rows.filled", "fraction", lambda facts: look(facts.pack, "splits.train.efficiency")),
    ("rows.trained_tokens", "tokens", lambda facts: look(facts.pack, "splits.train.trainable_tokens")),
    ("training.steps", "steps", lambda facts: facts.adapter.get("steps")),
    ("training.tokens", "tokens", lambda facts: facts.adapter.get("tokens")),
    ("training.trainable_parameters", "parameters", lambda facts: facts.adapter.get("trainable_parameters")),
    ("training.total_parameters", "parameters", lambda facts: facts.adapter.get("total_parameters")),
    ("training.loss_last", "nats per token", lambda facts: facts.adapter.get("train_loss_last")),
    ("merge.verdict", "", lambda facts: look(facts.merged, "check.verdict")),
    ("merge.mean_kl", "nats per token", lambda facts: look(facts.merged, "check.mean_kl")),
)
MEASURED = (
    ("measured.started", "ISO 8601", lambda facts: look(facts.info, "train.started")),
    ("measured.finished", "ISO 8601", lambda facts: look(facts.info, "train.finished")),
    ("measured.hours", "hours", lambda facts: whole_hours(facts, facts.info or {})),
    ("measured.seconds.compute", "seconds", lambda facts: look(facts.info, "seconds.compute")),
    ("measured.seconds.data", "seconds", lambda facts: look(facts.info, "seconds.data")),
    ("measured.seconds.evaluation", "seconds", lambda facts: look(facts.info, "seconds.evaluation")),
    ("measured.seconds.checkpoint", "seconds", lambda facts: look(facts.info, "seconds.checkpoint")),
    ("measured.tokens_per_second", "tokens per second", lambda facts: _rate(facts)),
    ("measured.peak_memory", "bytes", lambda facts: peak_bytes(facts.info)),
    ("measured.resumed_from_step", "step", lambda facts: look(facts.info, "resumed_from_step")),
    ("measured.host", "", lambda facts: look(facts.info, "machine.host")),
    ("measured.gpu", "", lambda facts: look(facts.info, "machine.gpu.name")),
    ("measured.git_commit", "", lambda facts: look(facts.info, "git.commit")),
    ("measured.git_uncommitted", "", lambda facts: look(facts.info, "git.uncommitted")),
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
    place = {"run": look(facts.run, "run"), "id": look(facts.run, "id")}
    rows = [*_identity(facts), *_counted(facts), *_evaluated(facts), *_configured(facts), *_volatile(facts)]
    return [
        {**place, "name": name, "value": _flat(value), "unit": unit, "origin": origin, "volatile": origin in VOLATILE}
        for name, value, unit, origin in rows
        if value is not None
    ]


VOLATILE = ("planned", "measured")
Found = Iterator[tuple[str, Any, str, str]]


def _identity(facts: Facts) -> Found:
    yield "fingerprint", look(facts.run, "fingerprint"), "", "identity"
    for kind in ("digests", "versions", "seeds"):
        for name, value in sorted((look(facts.run, kind) or {}).items()):
            if name != "code":
                yield f"{kind}.{name}", value, "", "identity"


def _counted(facts: Facts) -> Found:
    yield "data.lines", line_count(facts), "lines", "counted"
    for name, unit, read in COUNTED:
        yield name, read(facts), unit, "counted"


def _evaluated(facts: Facts) -> Found:
    for model in ("base", "tuned", "merged"):
        for metric, value in sorted((look(facts.evaluation, model) or {}).items()):
            if not isinstance(value, Mapping):
                yield f"evaluation.{model}.{metric}", value, _unit(metric), "evaluated"
    for pair, found in sorted((look(facts.evaluation, "differences") or {}).items()):
        for metric, bounds in sorted(found.items()):
            for name, value in sorted(bounds.items()):
                yield f"evaluation.{pair}.{metric}.{name}", value, _unit(metric), "evaluated"


def _unit(metric: str) -> str:
    known = METRICS.get(metric)
    return UNITS_OF_METRICS.get(metric) or ("fraction" if known and known.write is units.percent else "")


def _configured(facts: Facts) -> Found:
    for key, entry in sorted((look(facts.run, "config") or {}).items()):
        yield f"config.{key}", entry.get("value"), "", "configured"


def _volatile(facts: Facts) -> Found:
    for name, unit in PLANNED:
        yield name, look(facts.plan, name.removeprefix("plan.")), unit, "planned"
    for name, unit, read in MEASURED:
        yield name, read(facts), unit, "measured"
    hours, price = whole_hours(facts, facts.info or {}), dollars_per_hour(facts)
    yield "measured.cost", hours * price if hours and price else None, "US dollars", "measured"


def _flat(value: Any) -> Any:
    return canonical_text(value) if isinstance(value, list | dict) else value


def table_bytes(rows: list[Row]) -> bytes:
    """Return a table as a JSON array with one row a line."""
    lines = [orjson.dumps(row) for row in rows]
    return b"[\n" + b",\n".join(lines) + b"\n]\n"
