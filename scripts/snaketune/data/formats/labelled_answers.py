"""Labelled single answers for train.method: kto: the column of labels, found by name or configured."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from snaketune.core.errors import ConfigError
from snaketune.data.formats.columns import JUDGED, MAYBE_JUDGED, VERDICT_COLUMNS, plain_name
from snaketune.data.formats.first_records import RecordSample
from snaketune.data.formats.format_candidates import FormatCandidate
from snaketune.data.formats.formats import LABEL
from snaketune.data.records.fields import listed
from snaketune.data.records.labels import label_of


def with_label(sample: RecordSample, found: FormatCandidate, named: Mapping[str, str]) -> FormatCandidate:
    """Return the reading with the column of the labels, where single answers are learned from.

    Raises:
        ConfigError: if there is no such column, several would do, or one is named that is not used.
    """
    policy = sample.policy
    if policy.method != "kto" or found.kind == "preference":
        if LABEL in policy.columns and policy.for_training:
            why = "the records are pairs" if policy.method == "kto" else f"train.method is {policy.method}"
            raise ConfigError(
                f"{sample.path}: data.columns.label names labels of single answers, for train.method: kto, and {why}:"
                " remove it."
            )
        return found
    if LABEL in named:
        return _with(found, named[LABEL])
    columns = label_columns(sample.columns, found.fields.values())
    if not columns:
        raise _no_label(sample, found)
    first = columns[0]
    if rivals := [name for name in columns[1:] if sample.columns[name] != sample.columns[first]]:
        raise ConfigError(
            f"{sample.path}: {first!r} and {rivals[0]!r} both say which answers are good, and differ: name one of them,"
            f" data: {{columns: {{label: {first}}}}}."
        )
    return _with(found, first)


def _with(found: FormatCandidate, column: str) -> FormatCandidate:
    return replace(found, fields={**found.fields, LABEL: column})


def _no_label(sample: RecordSample, found: FormatCandidate) -> ConfigError:
    used = set(found.fields.values())
    maybe = [name for name, values in sample.columns.items() if name not in used and is_label(values)]
    line = maybe[0] if maybe else "<column>"
    beside = listed(name for name in sample.columns if plain_name(name) and name not in used)
    return ConfigError(
        f"{sample.path}: train.method: kto learns from pairs or from answers that are labelled good or bad, and no"
        f" column is known to be such a label (beside the answers there is {beside}): write data: {{columns: {{label:"
        f" {line}}}}}, or set train.method to sft."
    )


def label_columns(columns: Mapping[str, Sequence[Any]], used: Iterable[str]) -> list[str]:
    """Return the columns that may hold labels, those with the usual names first."""
    names, taken = (*VERDICT_COLUMNS, *JUDGED, *MAYBE_JUDGED), set(used)
    called = [name for name in columns if name not in taken and plain_name(name) in names]
    found = [name for name in called if is_label(columns[name])]
    return sorted(found, key=lambda name: names.index(plain_name(name)))


def is_label(values: Sequence[Any]) -> bool:
    """Return whether every value of a column is a label."""
    return bool(values) and all(label_of(value) is not None for value in values)
