"""Labelled answers: values that mean good or bad, and the canonical record of a labelled answer."""

from collections.abc import Mapping
from typing import Any

from snaketune.data.formats.columns import NO, YES
from snaketune.data.records.field_paths import ABSENT, value_at
from snaketune.data.records.quarantine import RefusedLine

LABEL_VALUES = {**dict.fromkeys(NO, False), **dict.fromkeys(YES, True), "-1": False}


def label_of(value: Any) -> bool | None:
    """Return whether a label means a good answer; None if it is not a known label."""
    # Tables with missing labels store 1 and 0 as floats.
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) in (bool, int, str):
        return LABEL_VALUES.get(str(value).strip().lower())
    return None


def labelled(converted: dict[str, Any], record: Mapping[str, Any], column: str) -> dict[str, Any]:
    """Return the canonical record of a prompt with a good or a bad answer: ``messages`` and ``chosen`` or ``rejected``.

    Args:
        converted: the canonical record of the conversation, which ends in the answer.
        record: the raw record.
        column: the column of the label, or a path inside one.

    Raises:
        Refusal: if the label is missing, or the conversation does not end in an answer after a question.
    """
    value = value_at(dict(record), column)
    is_good = label_of(value)
    if is_good is None:
        shown = "missing" if value is ABSENT or value is None else repr(value)[:40]
        raise RefusedLine("no_label", f"{column!r} is {shown}, it must be true or false, or 1 or 0")
    turns = converted["messages"]
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise RefusedLine("no_answer", "the conversation does not end in an answer for the label to rate")
    return {**converted, "messages": turns[:-1], "chosen" if is_good else "rejected": turns[-1:]}
