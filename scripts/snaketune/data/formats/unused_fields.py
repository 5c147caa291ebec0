"""Unused fields of the first records: each is reported with its share, known to be harmless, or refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snaketune.core.canonical import Json
from snaketune.data.conversations.marked_up_text import is_marked
from snaketune.data.formats.columns import (
    ANSWER_PAIRS,
    MODALITIES,
    has_text,
    is_bookkeeping,
    is_judging,
    plain_name,
    texts_in,
)
from snaketune.data.formats.first_records import RecordSample
from snaketune.data.formats.margin_columns import SCORE_COLUMNS
from snaketune.data.records.canonical_records import conversation_of
from snaketune.data.records.field_paths import column_of, values_at
from snaketune.data.records.margins import MARGIN
from snaketune.data.records.seen import SeenColumns

IS_BOOKKEEPING, REPEATED, IS_IGNORED, CHOSEN = "bookkeeping", "repeats", "data.ignore", "data.columns"
FOR_DPO, FOR_REWARD, CHECKED = "for train.method: dpo", "for train.method: reward", "checked"
FOR_MARGINS = "margins if data.columns names them"


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Names of unused columns and of unused keys inside columns.

    Attributes:
        lost: those with text in most records that nothing excuses, the longest first.
        known: the others, each with the reason why that is right.
    """

    lost: tuple[str, ...]
    known: tuple[tuple[str, str], ...]


def leftovers(
    sample: RecordSample,
    made: Sequence[Json | None],
    seen: SeenColumns,
    rejected: str | None,
    rendered: tuple[str, str] | None = None,
) -> Leftovers:
    """Classify the unused fields of the sample.

    Args:
        sample: the first records.
        made: what each became, None where it was refused.
        seen: what the conversion did not use.
        rejected: the column of rejected answers, if there is one.
        rendered: column and markup of conversations that are one text, which other columns may have parts of.
    """
    lost, known = [], []
    is_text = any("text" in converted for converted in made if converted is not None)
    for name, (_, with_text, size) in sorted(seen.unused.items()):
        if is_text and name in sample.numbered_answers() and name not in sample.policy.ignore:
            lost.append((0, name))
        elif reason := _excuse(sample, made, name, rejected, with_text > 0):
            known.append((name, reason))
        elif rendered and _is_part(sample, name, *rendered):
            known.append((name, REPEATED))
        elif with_text > len(sample.records) / 2:
            lost.append((-size, name))
    return Leftovers(tuple(name for _, name in sorted(lost)), tuple(known))


def _excuse(
    sample: RecordSample, made: Sequence[Json | None], name: str, rejected: str | None, has_text_there: bool
) -> str:
    if name in sample.policy.ignore or column_of(name) in sample.policy.ignore:
        return IS_IGNORED
    if plain_name(name) in MODALITIES or is_judging(name, sample.columns.get(name, ())):
        return CHECKED
    if name == rejected or name.endswith(("(neither best nor worst)", "(all but the best)")):
        return FOR_DPO
    values = [value for record in sample.records for value in values_at(record, name.removesuffix("[…]"))]
    if (values or not has_text_there) and is_bookkeeping(name, values) and not sample.is_side(name):
        return _bookkeeping(sample, name)
    return REPEATED if _is_repeated(sample, made, name) else ""


def _bookkeeping(sample: RecordSample, name: str) -> str:
    """Return why a column of bookkeeping is unused: scores of a pair and its margin are for reward models."""
    known = plain_name(name)
    if known not in (MARGIN, *SCORE_COLUMNS) or not any({*pair} <= sample.named.keys() for pair in ANSWER_PAIRS):
        return IS_BOOKKEEPING
    return FOR_MARGINS if sample.policy.method == "reward" else FOR_REWARD


def _is_part(sample: RecordSample, name: str, column: str, markup: str) -> bool:
    """Return whether the texts of a column are in the same markup and part of their record's conversation."""
    pairs = [(record.get(name), str(record.get(column))) for record in sample.records]
    texts = [(text, whole) for text, whole in pairs if type(text) is str and text.strip()]
    return bool(texts) and all(is_marked(text, markup) and text.strip() in whole for text, whole in texts)


def _is_repeated(sample: RecordSample, made: Sequence[Json | None], name: str) -> bool:
    """Return whether a column only repeats used texts, or is the whole record written as one text."""
    pairs = [
        (values_at(record, name), texts_of(converted))
        for record, converted in zip(sample.records, made, strict=True)
        if converted is not None
    ]
    filled = [(values, used) for values, used in pairs if has_text(values)]
    return bool(filled) and all(_repeats(values, used) for values, used in filled)


def _repeats(values: list[Any], used: list[str]) -> bool:
    stripped = {text.strip() for text in used}
    leaves = [text.strip() for text in texts_in(values) if text.strip()]
    words = [leaf for leaf in leaves if leaf not in stripped and not _is_role(leaf)]
    if not words:
        return any(leaf in stripped for leaf in leaves)
    return len(used) > 1 and len(leaves) == 1 and all(text.strip() in leaves[0] for text in used)


def _is_role(text: str) -> bool:
    return text.lower() in ("user", "assistant", "system", "human", "gpt", "text")


def texts_of(converted: Mapping[str, Any]) -> list[str]:
    """Return the texts of a canonical record."""
    if "text" in converted:
        return [converted["text"]]
    turns = conversation_of(dict(converted)) + converted.get("rejected", [])
    return [turn[key] for turn in turns for key in ("content", "reasoning_content") if turn.get(key)]
