"""Doubts about a reading whose columns fit: verdicts on records, unknown roles, two system prompts, and markup."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from snaketune.core.canonical import Json
from snaketune.core.errors import ConfigError, DataError
from snaketune.data.conversations.marked_up_text import end_mark_of, mark_in, marks_in
from snaketune.data.conversations.role_names import ROLE_KEYS, usual_role
from snaketune.data.formats.chained_refusals import cured
from snaketune.data.formats.columns import COLUMN_NAMES, NO, VERDICT_COLUMNS, YES, is_judging, plain_name
from snaketune.data.formats.configuration_lines import (
    columns_line,
    ignore_line,
    roles_line,
    strip_line,
    without_marks_command,
)
from snaketune.data.formats.first_records import RecordSample
from snaketune.data.formats.formats import kind_of
from snaketune.data.formats.suggestions import answer_inside
from snaketune.data.formats.unused_fields import texts_of
from snaketune.data.records.conversion import is_against
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.records.reading_policy import SourceReading


def judged_columns(sample: RecordSample, used: Iterable[str]) -> list[str]:
    """Return the columns by which records are judged, or belong to another split, none of them ignored or used.

    Args:
        sample: the first records.
        used: the columns that are fields of the record.
    """
    taken = set(used)
    return [
        name for name, values in sample.columns.items() if values and name not in taken and is_judging(name, values)
    ]


def check_verdicts(sample: RecordSample, reading: SourceReading) -> None:
    """Refuse records with a verdict on their answers or their use for training that the configuration does not address.

    Raises:
        ConfigError: with the lines to write.
    """
    kept = reading.field("keep")
    for name, values in sample.columns.items():
        if name == kept or name in dict(reading.fields).values():
            continue
        if (
            kind_of(reading.format) in ("messages", "pair")
            and plain_name(name) in VERDICT_COLUMNS
            and _is_verdict(values)
        ):
            bad = sum(is_against(name, value) or str(value).lower() in NO for value in values)
            error = ConfigError(
                f"{sample.path}: {name!r} says which answers are good ({bad} of the first {len(sample.records)} are"
                " bad), which suits train.method: kto; train.method: sft would also learn the bad ones: write"
                f" {columns_line({'keep': name})} to train on the good ones only, or"
                f" {ignore_line(_with(sample, name))} to train on all."
            )
            raise cured(error, columns={"keep": name})
        if not sample.policy.for_training:
            continue
        if is_judging(name, values) and (against := [value for value in values if is_against(name, value)]):
            error = ConfigError(
                f"{sample.path}: {name!r} is {str(against[0]).lower()} in {len(against)} of the first"
                f" {len(sample.records)} records, which marks them as not for training: write"
                f" {columns_line({'keep': name})} to set them aside, or {ignore_line(_with(sample, name))} to train on"
                " all."
            )
            raise cured(error, **({"ignore": [name]} if len(against) == len(values) else {"columns": {"keep": name}}))


def _with(sample: RecordSample, name: str) -> list[str]:
    """Return the ignored columns plus one, since a suggested line replaces the existing one."""
    # A list in YAML replaces the one before it: a suggestion with the new column alone would undo what is configured.
    return [*sample.policy.ignore, name]


def _is_verdict(values: list[Any]) -> bool:
    words = {str(value).strip().lower() for value in values}
    return bool(words) and words <= {*YES, *NO} and len(words) <= 2


def check_refused(sample: RecordSample, reading: SourceReading, refused: Sequence[RefusedLine | None]) -> None:
    """Refuse a source if most of the first records fail for a reason that one configuration line fixes.

    Raises:
        ConfigError, DataError: with that line, or saying that there is no answer.
    """
    reasons = Counter(refusal.reason for refusal in refused if refusal is not None)
    reason = next((reason for reason, count in reasons.items() if count > len(refused) / 2), "")
    index = next((index for index, refusal in enumerate(refused) if refusal and refusal.reason == reason), 0)
    where = f"{sample.path} line {sample.places[index]}"
    first = refused[index]
    if reason == "bad_role" and first:
        roles = {**sample.policy.roles, **_guessed(sample, reading)}
        raise cured(DataError(f"{where}: {first.detail}: map the names to roles, {roles_line(roles)}."), roles=roles)
    if reason == "two_systems" and first:
        name = reading.field("system") or "system"
        error = ConfigError(
            f"{where} has two system prompts, {first.detail}: write {ignore_line(_with(sample, name))} to keep the"
            f" conversation's own, or {columns_line({'system': name})} to use the column instead."
        )
        raise cured(error, ignore=[name])
    if reason == "no_assistant":
        raise _no_assistant(sample, reading)


def _no_assistant(sample: RecordSample, reading: SourceReading) -> DataError:
    """Return the error for turns without an answer, with the column or role that may hold the answer."""
    column = reading.field("messages") or reading.field("prompt") or ""
    elsewhere = [
        name
        for name in sample.columns
        if name != column and plain_name(name) not in (*COLUMN_NAMES["tools"], "function")
    ]
    answer = answer_inside(sample, elsewhere) if column and not reading.rendered else None
    line = ""
    if answer:
        line = f" Where {answer!r} is the answer, write {columns_line({'prompt': column, 'completion': answer})}."
    elif name := _last_name(sample, column):
        line = f" Where {name!r} is the assistant, write {roles_line({name: 'assistant'})}."
    error = DataError(
        f"{sample.path} has no answer to learn from: no message has the role assistant. Prompts without answers can "
        f"serve for evaluation, or have a model answer them first.{line}"
    )
    return cured(error, columns={"prompt": column, "completion": answer}) if answer else error


def _last_name(sample: RecordSample, column: str) -> str:
    """Return the last of several speakers, who may be the assistant; empty if only one speaker could ask."""
    lists = [record.get(column) for record in sample.records]
    turns = [turn for turns in lists if type(turns) is list for turn in turns if type(turn) is dict]
    names = list(dict.fromkeys(turn[key] for turn in turns for key in ROLE_KEYS if type(turn.get(key)) is str))
    asking = [name for name in names if usual_role(name, sample.policy.roles) == "user"]
    return names[-1] if len(names) > 1 and names[-1:] != asking else ""


def _guessed(sample: RecordSample, reading: SourceReading) -> dict[str, str]:
    """Return the unknown roles with their probable meaning: the last speaker is the assistant."""
    column = reading.field("messages") or ""
    found: dict[str, str] = {}
    for record in sample.records:
        turns = record.get(column)
        names = [
            next((turn[key] for key in ROLE_KEYS if type(turn.get(key)) is str), "")
            for turn in (turns if type(turns) is list else [])
            if type(turn) is dict
        ]
        for index, name in enumerate(names):
            if name and usual_role(name, sample.policy.roles) is None and name not in found:
                # Speakers alternate and a conversation for training ends in an answer, so every second one from the end
                # is the assistant.
                is_last = name == names[-1] or (len(names) - 1 - index) % 2 == 0
                found[name] = "assistant" if is_last else "user"
    return found


def check_marks(sample: RecordSample, made: Sequence[Json | None]) -> None:
    """Refuse texts with the marks of another chat template in most of the first records.

    Raises:
        DataError: with the file, the line and the cure.
    """
    ends = [_first(converted, end_mark_of) for converted in made]
    marks = Counter(mark for mark in ends if mark)
    # In a few records the marks may be the subject of the text (documentation of chat templates); in most of them they
    # are markup.
    if marks and marks.total() > len(made) / 2:
        index = next(index for index, mark in enumerate(ends) if mark)
        strip = sorted({*sample.policy.strip, *marks})
        error = DataError(
            f"{sample.path} line {sample.places[index]}: the text ends with {ends[index]}, as"
            f" {marks.total()} of the first {len(made)} records do: a model's end-of-turn marker, which the chat "
            f"template adds itself: write {strip_line(strip)} to remove it."
        )
        raise cured(error, strip=strip)
    inside = [_first(converted, mark_in) for converted in made]
    if sum(mark is not None for mark in inside) > len(made) / 2:
        index = next(index for index, mark in enumerate(inside) if mark)
        raise DataError(
            f"{sample.path} line {sample.places[index]}: the text contains {inside[index]}, as most of the first"
            " records do: it was written for another chat template but is not one complete conversation in its markup: "
            f"remove the markers from the file, for JSON lines with {without_marks_command(_marks(made))}."
        )


def _marks(made: Sequence[Json | None]) -> list[str]:
    """Return every mark in the texts of records, in order of appearance."""
    texts = [text for converted in made if converted is not None for text in texts_of(converted)]
    return list(dict.fromkeys(mark for text in texts for mark in marks_in(text)))


def _first(converted: Json | None, find: Any) -> str | None:
    if converted is None:
        return None
    return next((mark for text in texts_of(converted) if (mark := find(text))), None)
