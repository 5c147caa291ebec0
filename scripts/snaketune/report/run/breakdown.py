"""The evaluation in parts: per source, per length, per external file, and the tasks of lm-evaluation-harness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from snaketune.facts.evaluation_facts import (
    MODELS,
    Evaluation,
    FileScores,
    LengthGroup,
    SourceGroup,
    TaskScores,
    measured_count,
    score,
)
from snaketune.report import units
from snaketune.report.run.answers import ShownAnswers
from snaketune.report.run.evaluation_table import MetricRow, metric_rows
from snaketune.report.text import excerpt

# Differences of measures count from this many standard errors.
Z = 1.959964


@dataclass(frozen=True, slots=True)
class BreakdownPart:
    """A group of held-out documents; all values are text already, ``word`` says what the difference means."""

    label: str
    records: str
    tokens: str
    base: str
    tuned: str
    difference: str
    interval: str
    word: str


@dataclass(frozen=True, slots=True)
class FilePart:
    """The measures of one external file and some of the answers."""

    name: str
    requests: str
    models: tuple[str, ...]
    rows: tuple[MetricRow, ...]
    answers: ShownAnswers


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One measure of one task; ``final`` is the merged model's, or the tuned one's."""

    task: str
    version: str
    cases: str
    measure: str
    base: str
    final: str
    difference: str


def source_parts(evaluation: Evaluation, paths: Sequence[str]) -> tuple[BreakdownPart, ...]:
    """Return the losses per source; a source without a name in ``paths`` is called by its number."""
    named = {number: excerpt(path, 200).text for number, path in enumerate(paths)}
    groups = evaluation["by_source"]
    return tuple(_part(named.get(group["source"] or 0, f"source {group['source']}"), group) for group in groups)


def length_parts(evaluation: Evaluation) -> tuple[BreakdownPart, ...]:
    """Return the losses per length of the documents."""
    groups = evaluation["by_length"]
    return tuple(_part(f"{units.count(group['from'])} to {units.count(group['to'] - 1)}", group) for group in groups)


def _part(label: str, group: SourceGroup | LengthGroup) -> BreakdownPart:
    moved = group["difference"].get("loss") or {}
    low, high = moved.get("low"), moved.get("high")
    word = within = ""
    if low is not None and high is not None:
        word = "better" if high < 0 else "worse" if low > 0 else "may be chance"
        within = f"95%: {units.signed(low)} to {units.signed(high)}"
    return BreakdownPart(
        label,
        units.count(group["n"]),
        units.count(group["tokens"]),
        units.plain(score(group["base"], "loss")),
        units.plain(score(group["tuned"], "loss")),
        units.signed(moved.get("difference")) if moved else "",
        within,
        word,
    )


def file_parts(evaluation: Evaluation, answers: Mapping[str, ShownAnswers]) -> tuple[FilePart, ...]:
    """Return what was measured with each external file."""
    return tuple(
        FilePart(
            excerpt(name, 200).text,
            _asked(found),
            tuple(model for model in MODELS if found[model]),
            metric_rows(found, answers.get(name)),
            answers.get(name, ShownAnswers()),
        )
        for name, found in evaluation["files"].items()
    )


def _asked(found: FileScores) -> str:
    left_out = found["left_out"]
    asked = units.count(measured_count(found["tuned"], "n_generated"), "question")
    return f"{asked} (without {units.count(left_out)} that could not be asked)" if left_out else asked


def task_rows(evaluation: Evaluation) -> tuple[TaskRow, ...]:
    """Return the measures of every task."""
    tasks = evaluation["tasks"]
    return tuple(row for name, found in tasks.items() for row in _rows_of_task(name, found))


def _rows_of_task(name: str, found: TaskScores) -> list[TaskRow]:
    base, final = found["base"], found["merged"] or found["tuned"]
    measures = [key for key in final if "_stderr," not in key]
    version = "" if found["version"] is None else str(found["version"])
    told = (excerpt(name, 100).text, version, units.count(found["n"]))
    return [
        TaskRow(
            *told,
            excerpt(key.removesuffix(",none"), 100).text,
            _with_error(base, key),
            _with_error(final, key),
            units.signed(final[key] - base[key]) if key in base else "",
        )
        for key in measures
    ]


def _with_error(values: Mapping[str, float], key: str) -> str:
    if key not in values:
        return units.NOT_MEASURED
    measure, _, name = key.partition(",")
    error = values.get(f"{measure}_stderr,{name}")
    spread = "" if error is None else f" \u00b1 {units.significant(Z * error, 2)}"
    return f"{units.plain(values[key])}{spread}"
