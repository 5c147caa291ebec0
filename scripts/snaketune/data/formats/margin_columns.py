"""Margins of pairs for train.method: reward: the columns that hold them, found by TRL's name or configured."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from snaketune.core.errors import ConfigError
from snaketune.data.formats.columns import plain_name
from snaketune.data.formats.first_records import RecordSample, nearly_all
from snaketune.data.formats.format_candidates import FormatCandidate
from snaketune.data.records.margins import CHOSEN_SCORE, INSIDE_LIST, MARGIN, MARGIN_FIELDS, REJECTED_SCORE, number_of

# Usual names of the scores of a pair's answers. Their scale is that of the judge, not of a reward model, so they become
# margins only where the configuration says so.
SCORE_COLUMNS = frozenset(
    (
        *("chosen_score", "rejected_score", "score_chosen", "score_rejected", "chosen_scores", "rejected_scores"),
        *("chosen_rating", "rejected_rating", "rating_chosen", "rating_rejected", "chosen_avg_rating"),
        *("rejected_avg_rating", "chosen_reward", "rejected_reward", "reward_chosen", "reward_rejected"),
    )
)


def with_margin(sample: RecordSample, found: FormatCandidate, named: Mapping[str, str]) -> FormatCandidate:
    """Return the reading with the columns of margins, where a reward model is trained.

    A column called ``margin`` is used as in TRL; others are used if ``data.columns`` names them.

    Raises:
        ConfigError: if a column is named that is not used, or its values are no margins.
    """
    policy = sample.policy
    if policy.method != "reward":
        wrong = [field for field in MARGIN_FIELDS if field in policy.columns]
        if wrong and policy.for_training:
            raise ConfigError(
                f"{sample.path}: data.columns.{wrong[0]} is for the margins of train.method: reward, and train.method"
                f" is {policy.method}: remove it."
            )
        return found
    fields = {field: named[field] for field in MARGIN_FIELDS if field in named}
    if CHOSEN_SCORE in fields or REJECTED_SCORE in fields:
        fields |= {field: policy.columns[field] for field in (CHOSEN_SCORE, REJECTED_SCORE)}
    elif not fields and (column := _usual(sample, found)):
        fields = {MARGIN: column}
    if INSIDE_LIST in fields.get(MARGIN, ""):
        _check_inside(sample, found, fields[MARGIN])
    return replace(found, fields={**found.fields, **fields}) if fields else found


def _usual(sample: RecordSample, found: FormatCandidate) -> str | None:
    """Return the column called ``margin`` unless it is used otherwise."""
    column = next((name for name in sample.columns if plain_name(name) == MARGIN), None)
    if column is None or not sample.columns[column] or column in found.fields.values():
        return None
    if not nearly_all(sample.columns[column], _is_margin):
        wrong = next(value for value in sample.columns[column] if not _is_margin(value))
        raise ConfigError(
            f"{sample.path}: {column!r} is {str(wrong)[:40]!r} in some records, but a margin must be a number of 0 or"
            f" more: correct it, or write data: {{ignore: [{', '.join([*sample.policy.ignore, column])}]}}."
        )
    return column


def _is_margin(value: Any) -> bool:
    number = number_of(value)
    return number is not None and number >= 0


def _check_inside(sample: RecordSample, found: FormatCandidate, path: str) -> None:
    """Refuse scores in a list that are not those by which its answers are ranked."""
    ranked = found.ranking and found.ranking.score and f"{found.fields['completion']}[].{found.ranking.score}"
    if path != ranked:
        use = f"name {ranked}" if ranked else "name a column of the record"
        raise ConfigError(
            f"{sample.path}: data.columns.margin is {path}, but the answers are not ranked by it: {use}, or remove it."
        )
