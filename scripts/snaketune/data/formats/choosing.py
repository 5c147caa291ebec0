"""Decides from the first records how a source is read, or says in one sentence what to write in the configuration."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from snaketune.core.canonical import Json
from snaketune.core.errors import ConfigError, DataError
from snaketune.data.conversations.packed_text import packed_columns, unpacked_columns
from snaketune.data.formats.chained_refusals import tell_all
from snaketune.data.formats.columns import COLUMN_NAMES, MODALITIES, plain_name
from snaketune.data.formats.doubts import check_marks, check_refused, check_verdicts, judged_columns
from snaketune.data.formats.first_records import RecordSample
from snaketune.data.formats.format_candidates import FormatCandidate, candidate, named_fields
from snaketune.data.formats.formats import default_reading, evidence_of, kind_of, kinds_for
from snaketune.data.formats.labelled_answers import with_label
from snaketune.data.formats.margin_columns import with_margin
from snaketune.data.formats.refusals import doubtful, no_pairs, no_reading, one_message_a_line
from snaketune.data.formats.unused_fields import CHOSEN, IS_IGNORED, leftovers
from snaketune.data.records.conversion import RecordConverter
from snaketune.data.records.field_paths import column_of, value_at
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.records.reading_policy import ReadingPolicy, SourceReading

Tried = tuple[list[Json | None], list[RefusedLine | None], RecordConverter]
# Fields that the configuration must name for all other columns to be ignored without a question.
DECIDING = {
    "messages": ({"messages"},),
    "pair": ({"prompt", "completion"},),
    "preference": ({"chosen", "rejected"}, {"prompt", "completion"}),
    "text": ({"text"},),
}


def decide(path: str, records: Sequence[Json], places: Sequence[int], policy: ReadingPolicy) -> SourceReading:
    """Return the reading of a source.

    Args:
        path: what the user calls the source.
        records: its first records, as they were parsed; with ``data.format: auto`` at least one.
        places: the number of the line, or of the record, of each.
        policy: the configuration.

    Raises:
        ConfigError, DataError: where no reading is certain; the sentence has the line to write.
    """
    try:
        return _decide(path, records, places, policy)
    except (ConfigError, DataError) as error:
        raise tell_all(policy, lambda other: _decide(path, records, places, other), error) from None


def _decide(path: str, records: Sequence[Json], places: Sequence[int], policy: ReadingPolicy) -> SourceReading:
    wanted = None if policy.format == "auto" else policy.format
    if not records and wanted:
        return default_reading(wanted, policy)
    packed = packed_columns(records, policy)
    read, lines = _unpacked(records, places, packed) if packed else (records, places)
    sample = RecordSample.of(path, read, lines, policy)
    named = named_fields(sample)
    if not named and not wanted and not sample.turn_columns() and (error := one_message_a_line(sample)):
        raise error
    found = candidate(sample, named, kinds_for(named, wanted and kind_of(wanted), policy.method))
    if found is None:
        if wanted and policy.method != "kto":
            return default_reading(wanted, policy)
        raise no_pairs(sample) if policy.pairs else no_reading(sample)
    found = with_margin(sample, with_label(sample, found, named), named)
    reading = _with_packed(_reading(sample, found, wanted), packed)
    check_verdicts(sample, reading)
    # Column names alone are weak evidence. The reading is tried on the first records before a source of any size is
    # read with it.
    made, refused, converter = _tried(sample, reading)
    check_refused(sample, reading, refused)
    seen = converter.seen()
    rendered = (found.fields["messages"], found.rendered) if found.kind == "messages" and found.rendered else None
    left = leftovers(sample, made, seen, _worse(reading, policy.pairs), rendered)
    is_decided = any(fields <= named.keys() for fields in DECIDING[found.kind])
    if not is_decided and (left.lost or any((found.others or {}).values())):
        raise doubtful(sample, found, left, seen)
    check_marks(sample, made)
    # Columns that are accounted for here are not reported again as lost when the whole source has been read.
    known = dict.fromkeys(policy.ignore, IS_IGNORED) | dict(left.known) | dict.fromkeys(left.lost, CHOSEN)
    return replace(reading, known=tuple(sorted(known.items())), is_decided=is_decided)


def _unpacked(records: Sequence[Json], places: Sequence[int], packed: tuple[str, ...]) -> tuple[list[Json], list[int]]:
    """Return the records whose packed conversations can be parsed, and their places."""
    found: list[tuple[Json, int]] = []
    for record, place in zip(records, places, strict=True):
        with suppress(RefusedLine):  # met again, and set aside with its reason, when the whole source is read
            found.append((unpacked_columns(record, packed), place))
    return [record for record, _ in found], [place for _, place in found]


def _with_packed(reading: SourceReading, packed: tuple[str, ...]) -> SourceReading:
    if not packed:
        return reading
    return replace(reading, packed=packed, evidence=f"{reading.evidence} ({', '.join(packed)} read from text)")


def _worse(reading: SourceReading, pairs: bool) -> str | None:
    """Return the column of rejected answers if the method does not use them."""
    if reading.ranking and reading.ranking.text is None:
        return None if pairs else f"{reading.field('completion')}[1]"
    return None if pairs else reading.field("rejected")


def _reading(sample: RecordSample, found: FormatCandidate, wanted: str | None) -> SourceReading:
    fields = {name: path for name, path in found.fields.items() if path}
    for name in sample.columns:
        if plain_name(name) in MODALITIES and name not in fields.values():
            fields.setdefault("modality", name)
    judged = tuple(name for name in (*judged_columns(sample, fields.values()), fields.get("keep")) if name)
    return SourceReading(
        wanted or _format_of(sample, found),
        tuple(fields.items()),
        found.rendered,
        found.ranking,
        judged,
        found.single,
        known=_no_context(sample, fields),
        named=tuple(sample.policy.columns.items()),
        evidence=evidence_of(fields) + _rule(found),
        calls=found.calls,
    )


def _no_context(sample: RecordSample, fields: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the columns named like a context whose values are something else, such as lists of objects."""
    used = fields.values()
    return tuple(
        (name, "")
        for name in sample.columns
        if plain_name(name) in COLUMN_NAMES["input"] and name not in used and sample.is_filled(name)
    )


def _rule(found: FormatCandidate) -> str:
    """Return the part of the evidence about lists of answers and conversations written as one text."""
    if found.calls:
        return " (answers that are calls become tool calls)"
    if found.ranking is None:
        return f" ({found.rendered} markup parsed)" if found.rendered else ""
    if found.ranking.text is None:
        return " (the first answer is the better one)"
    first = "lowest" if found.ranking.lowest_first else "highest"
    return f" (the answer with the {first} {found.ranking.score} is the best one)"


def _format_of(sample: RecordSample, found: FormatCandidate) -> str:
    if found.kind == "messages":
        path = found.fields["messages"]
        turns = [value_at(record, path) for record in sample.records]
        is_share = any(
            type(value) is list and any("from" in turn for turn in value if type(turn) is dict) for value in turns
        )
        return "sharegpt" if is_share or plain_name(path) == "conversations" else "messages"
    if found.kind == "pair":
        return "instruction" if plain_name(column_of(found.fields["prompt"])) == "instruction" else "prompt_completion"
    return found.kind


def _tried(sample: RecordSample, reading: SourceReading) -> Tried:
    """Convert the sample with the decided reading, to find records that fail."""
    converter = RecordConverter(reading, sample.policy)
    made: list[Json | None] = []
    refused: list[RefusedLine | None] = []
    for record in sample.records:
        try:
            made.append(converter(record))
            refused.append(None)
        except RefusedLine as refusal:
            made.append(None)
            refused.append(refusal)
    return made, refused, converter
