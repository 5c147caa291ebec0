"""The evaluation in parts: per source, per length, per external file, and the tasks of lm-evaluation-harness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snaketune.report import units
from snaketune.report.facts import get_path
from snaketune.report.run.answers import Answers
from snaketune.report.run.evaluation import MODELS, Row, table
from snaketune.report.text import excerpt

# A difference of two measures with standard errors is called one beyond this many of them.
Z = 1.959964


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the held-out documents; all values are text already, ``word`` says what the difference means."""

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
    rows: tuple[Row, ...]
    answers: Answers


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


def source_parts(evaluation: Mapping[str, Any], paths: Sequence[Any]) -> tuple[Part, ...]:
    """Return the losses per source; a source without a name in ``paths`` is called by its number."""
    named = {number: excerpt(path, 200).text for number, path in enumerate(paths)}
    groups = get_path(evaluation, "by_source") or []
    return tuple(_part(named.get(group.get("source"), f"source {group.get('source')}"), group) for group in groups)


def length_parts(evaluation: Mapping[str, Any]) -> tuple[Part, ...]:
    """Return the losses per length of the documents."""
    groups = get_path(evaluation, "by_length") or []
    return tuple(_part(f"{units.count(group['from'])} to {units.count(group['to'] - 1)}", group) for group in groups)


def _part(label: str, group: Mapping[str, Any]) -> Part:
    moved = get_path(group, "difference.loss") or {}
    low, high = moved.get("low"), moved.get("high")
    word = within = ""
    if low is not None and high is not None:
        word = "better" if high < 0 else "worse" if low > 0 else "may be chance"
        within = f"95%: {units.signed(low)} to {units.signed(high)}"
    return Part(
        label,
        units.count(group.get("n")),
        units.count(group.get("tokens")),
        units.plain(get_path(group, "base.loss")),
        units.plain(get_path(group, "tuned.loss")),
        units.signed(moved.get("difference")) if moved else "",
        within,
        word,
    )


def file_parts(evaluation: Mapping[str, Any], answers: Mapping[str, Answers]) -> tuple[FilePart, ...]:
    """Return what was measured with each external file."""
    return tuple(
        FilePart(
            excerpt(name, 200).text,
            _asked(found),
            tuple(model for model in MODELS if get_path(found, model)),
            table(found, answers.get(name)),
            answers.get(name, Answers()),
        )
        for name, found in (get_path(evaluation, "files") or {}).items()
    )


def _asked(found: Mapping[str, Any]) -> str:
    left_out = get_path(found, "left_out")
    asked = units.count(get_path(found, "tuned.n_generated"), "question")
    return f"{asked} (without {units.count(left_out)} that could not be put to the model)" if left_out else asked


def task_rows(evaluation: Mapping[str, Any]) -> tuple[TaskRow, ...]:
    """Return the measures of every task."""
    tasks = get_path(evaluation, "tasks") or {}
    return tuple(row for name, found in tasks.items() for row in _rows_of_task(name, found))


def _rows_of_task(name: str, found: Mapping[str, Any]) -> list[TaskRow]:
    base, final = found.get("base") or {}, found.get("merged") or found.get("tuned") or {}
    measures = [key for key in final if "_stderr," not in key]
    told = (excerpt(name, 100).text, str(found.get("version", "")), units.count(found.get("n")))
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


def _with_error(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return units.UNKNOWN
    measure, _, name = key.partition(",")
    error = values.get(f"{measure}_stderr,{name}")
    spread = "" if error is None else f" \u00b1 {units.significant(Z * error, 2)}"
    return f"{units.plain(values[key])}{spread}"
