"""facts.json: the facts of a run as one table, for notebooks and scripts."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from snaketune.core.canonical import canonical_text
from snaketune.facts.evaluation_facts import MODELS
from snaketune.facts.plan_facts import number_of
from snaketune.report import units
from snaketune.report.charts.loss_charts import dollars_per_hour
from snaketune.report.compare.comparison import median, peak_bytes_of
from snaketune.report.plan.plan_compared import whole_hours
from snaketune.report.report_facts import RunPageFacts
from snaketune.report.run.evaluation_table import METRICS
from snaketune.report.run.funnel import line_count
from snaketune.report.run.verdict import verdict

TableRow = dict[str, Any]


FigureOf = Callable[[RunPageFacts], Any]


def _rate(facts: RunPageFacts) -> float | None:
    curve = facts.rates.get("tokens_per_second")
    return median(value for _, value in curve.points if value) if curve else None


def _hours(facts: RunPageFacts) -> float | None:
    return whole_hours(facts, facts.measured)


def _peak(facts: RunPageFacts) -> float | None:
    return peak_bytes_of(facts.measured)


def _cost(facts: RunPageFacts) -> float | None:
    hours, price = _hours(facts), dollars_per_hour(facts)
    return hours * price if hours and price else None


UNITS_OF_METRICS = {
    "loss": "nats per token",
    "perplexity": "",
    "bits_per_byte": "bits per byte",
    "n": "records",
    "n_generated": "requests",
    "n_cut": "answers",
}
COUNTED_ROWS: tuple[tuple[str, str, FigureOf], ...] = (
    ("data.lines", "lines", line_count),
    ("data.records", "records", lambda facts: facts.reading["records"]),
    ("data.quarantined", "lines", lambda facts: facts.reading["quarantined"]),
    ("data.duplicates", "records", lambda facts: facts.dedupe["removed"]),
    ("data.kept", "records", lambda facts: facts.dedupe["kept"]),
    ("data.train", "records", lambda facts: facts.split["train"]),
    ("data.eval", "records", lambda facts: facts.split["eval"]),
    ("tokens.max_length", "tokens", lambda facts: facts.rightsize["max_length"]),
    ("tokens.longest", "tokens", lambda facts: facts.rightsize["longest"]),
    ("tokens.train", "tokens", lambda facts: facts.rightsize["tokens"]),
    ("tokens.truncated", "tokens", lambda facts: facts.rightsize["tokens_truncated"]),
    ("tokens.dropped", "tokens", lambda facts: facts.rightsize["tokens_dropped"]),
    ("rows.train", "rows", lambda facts: facts.pack["splits"]["train"]["rows"]),
    ("rows.length", "tokens", lambda facts: facts.pack["row_length"]),
    ("rows.filled", "fraction", lambda facts: facts.pack["splits"]["train"]["efficiency"]),
    ("rows.trained_tokens", "tokens", lambda facts: facts.pack["splits"]["train"]["trainable_tokens"]),
    ("training.steps", "steps", lambda facts: facts.adapter["steps"]),
    ("training.tokens", "tokens", lambda facts: facts.adapter["tokens"]),
    ("training.trainable_parameters", "parameters", lambda facts: facts.adapter["trainable_parameters"]),
    ("training.total_parameters", "parameters", lambda facts: facts.adapter["total_parameters"]),
    ("training.loss_last", "nats per token", lambda facts: facts.adapter["train_loss_last"]),
    ("training.kept_step", "step", lambda facts: facts.adapter["best"]["kept_step"]),
    ("training.stopped_early", "", lambda facts: facts.adapter["best"]["stopped_early"]),
    ("merge.verdict", "", lambda facts: facts.merged and facts.merged["check"]["verdict"]),
    ("merge.mean_kl", "nats per token", lambda facts: facts.merged and facts.merged["check"]["mean_kl"]),
    ("merge.loss_change", "nats per token", lambda facts: facts.merged and facts.merged["check"]["loss_change"]),
    ("merge.change_kept", "fraction", lambda facts: facts.merged and facts.merged["check"]["change_kept"]),
    ("merge.rounding", "", lambda facts: facts.merged and facts.merged["rounding"]),
    ("merge.refused", "", lambda facts: facts.merged and facts.merged["refused"] and facts.merged["refused"]["reason"]),
)
MEASURED_ROWS: tuple[tuple[str, str, FigureOf], ...] = (
    ("measured.started", "ISO 8601", lambda facts: facts.measured["train"]["started"]),
    ("measured.finished", "ISO 8601", lambda facts: facts.measured["train"]["finished"]),
    ("measured.hours", "hours", _hours),
    ("measured.seconds.compute", "seconds", lambda facts: facts.measured["seconds"]["compute"]),
    ("measured.seconds.data", "seconds", lambda facts: facts.measured["seconds"]["data"]),
    ("measured.seconds.evaluation", "seconds", lambda facts: facts.measured["seconds"]["evaluation"]),
    ("measured.seconds.checkpoint", "seconds", lambda facts: facts.measured["seconds"]["checkpoint"]),
    ("measured.tokens_per_second", "tokens per second", _rate),
    ("measured.peak_memory", "bytes", _peak),
    ("measured.resumed_from_step", "step", lambda facts: facts.measured["resumed_from_step"]),
    ("measured.host", "", lambda facts: facts.measured["machine"]["host"]),
    ("measured.gpu", "", lambda facts: facts.measured["machine"]["gpu"]["name"]),
    ("measured.git_commit", "", lambda facts: facts.measured["git"]["commit"]),
    ("measured.git_uncommitted", "", lambda facts: facts.measured["git"]["uncommitted"]),
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


def fact_table(facts: RunPageFacts) -> list[TableRow]:
    """Return one row per fact: ``run``, ``id``, ``name``, ``value``, ``unit``, ``origin`` and ``volatile``.

    ``origin`` is ``identity``, ``configured``, ``counted``, ``evaluated``, ``planned`` or ``measured``. What may differ
    between two equal runs is ``volatile`` and comes last; values are numbers, texts, true, false or null.
    """
    place = {"run": facts.run["run"], "id": facts.run["id"]}
    rows = [*_identity(facts), *_counted(facts), *_evaluated(facts), *_configured(facts), *_volatile(facts)]
    return [
        {**place, "name": name, "value": _flat(value), "unit": unit, "origin": origin, "volatile": origin in VOLATILE}
        for name, value, unit, origin in rows
        if value is not None
    ]


VOLATILE = ("planned", "measured")
TableRows = Iterator[tuple[str, Any, str, str]]


def _identity(facts: RunPageFacts) -> TableRows:
    yield "fingerprint", facts.run["fingerprint"], "", "identity"
    kinds: dict[str, Mapping[str, Any]] = {
        "digests": facts.run["digests"],
        "versions": facts.run["versions"],
        "seeds": facts.run["seeds"],
    }
    for kind, found in kinds.items():
        for name, value in sorted(found.items()):
            if name != "code":
                yield f"{kind}.{name}", value, "", "identity"


def _counted(facts: RunPageFacts) -> TableRows:
    for name, unit, place in COUNTED_ROWS:
        yield name, place(facts), unit, "counted"


def _evaluated(facts: RunPageFacts) -> TableRows:
    found = verdict(facts)
    yield "verdict.outcome", found.outcome, "", "evaluated"
    yield "verdict.headline", found.headline, "", "evaluated"
    for model in MODELS:
        for metric, value in sorted((facts.evaluation[model] or {}).items()):
            if not isinstance(value, Mapping):
                yield f"evaluation.{model}.{metric}", value, _unit(metric), "evaluated"
    for pair, moved in sorted(facts.evaluation["differences"].items()):
        for metric, bounds in sorted(moved.items()):
            for name, value in sorted(bounds.items()):
                yield f"evaluation.{pair}.{metric}.{name}", value, _unit(metric), "evaluated"


def _unit(metric: str) -> str:
    known = METRICS.get(metric)
    return UNITS_OF_METRICS.get(metric) or ("fraction" if known and known.write is units.percent else "")


def _configured(facts: RunPageFacts) -> TableRows:
    for key, entry in sorted(facts.run["config"].items()):
        yield f"config.{key}", entry["value"], "", "configured"


def _volatile(facts: RunPageFacts) -> TableRows:
    # A plan depends on earlier runs and on prices, so equal runs may have different plans.
    for name, unit in PLANNED:
        yield name, facts.plan and number_of(facts.plan, name.removeprefix("plan.")), unit, "planned"
    for name, unit, place in MEASURED_ROWS:
        yield name, place(facts), unit, "measured"


def _flat(value: Any) -> Any:
    return canonical_text(value) if isinstance(value, list | dict) else value


def table_bytes(rows: list[TableRow]) -> bytes:
    """Return a table as a JSON array with one row a line."""
    lines = [orjson.dumps(row) for row in rows]
    return b"[\n" + b",\n".join(lines) + b"\n]\n"
