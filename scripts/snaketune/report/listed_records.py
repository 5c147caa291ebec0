"""Removed records, a few per reason, as listed on the page."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from snaketune.core.canonical import Json
from snaketune.facts.lines import DuplicateLine, LeakLine, LeftOutLine, read_lines
from snaketune.report.text import Excerpt, excerpt

QUARANTINE_SHOWN = 10
QUARANTINE_PER_REASON = 3
DUPLICATES_SHOWN = 5
LEAKS_PER_REASON = 3
LINE_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class QuarantinedLine:
    """A line of a source that could not be read as a record."""

    place: str
    reason: str
    detail: Excerpt
    raw: Excerpt


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """A removed record and the earlier one that was kept, by source number and line."""

    removed: tuple[int, int]
    kept: tuple[int, int]
    kind: str
    similarity: float
    text: Excerpt
    kept_text: Excerpt


@dataclass(frozen=True, slots=True)
class LeftOutRecord:
    """A record that tokenising left out, by source number and line."""

    split: str
    place: tuple[int, int]
    reason: str
    detail: Excerpt


@dataclass(frozen=True, slots=True)
class LeakPair:
    """A record that was kept from training, and what it would have given away: a held-out record or a file's text."""

    reason: str
    removed: tuple[int, int]
    where: str
    similarity: float
    text: Excerpt
    other: Excerpt


def read_quarantine(path: Path) -> tuple[QuarantinedLine, ...]:
    """Return a few quarantined lines: the first ones of each reason."""
    chosen: list[QuarantinedLine] = []
    for reason, line in _first_of_each_reason(read_lines(path), QUARANTINE_PER_REASON):
        if len(chosen) < QUARANTINE_SHOWN:
            place = f"{excerpt(line.get('path'), 200).text}, line {line.get('line')}"
            detail, raw = excerpt(line.get("detail"), LINE_CHARACTERS), excerpt(line.get("raw"), LINE_CHARACTERS)
            chosen.append(QuarantinedLine(place, reason, detail, raw))
    return tuple(sorted(chosen, key=lambda line: line.reason))


def read_duplicates(path: Path) -> tuple[DuplicatePair, ...]:
    """Return the first few duplicate pairs."""
    chosen: list[DuplicatePair] = []
    for line in read_lines(path, DuplicateLine):
        removed, kept = ((int(line[side]["source"]), int(line[side]["line"])) for side in ("removed", "kept"))
        text, other = (excerpt(line.get(name), LINE_CHARACTERS) for name in ("text", "kept_text"))
        chosen.append(DuplicatePair(removed, kept, str(line["kind"]), float(line["similarity"]), text, other))
        if len(chosen) == DUPLICATES_SHOWN:
            break
    return tuple(chosen)


def read_left_out(path: Path) -> tuple[LeftOutRecord, ...]:
    """Return the first few records of each reason that tokenising left out."""
    chosen: list[LeftOutRecord] = []
    for reason, line in _first_of_each_reason(read_lines(path, LeftOutLine), QUARANTINE_PER_REASON):
        place, detail = (int(line.get("source", -1)), int(line.get("line", 0))), line.get("detail")
        chosen.append(LeftOutRecord(str(line.get("split")), place, reason, excerpt(detail, LINE_CHARACTERS)))
    return tuple(sorted(chosen, key=lambda line: line.reason))


def read_leaks(path: Path) -> tuple[LeakPair, ...]:
    """Return the first few records of each reason that were kept from training."""
    lines = _first_of_each_reason(read_lines(path, LeakLine), LEAKS_PER_REASON)
    return tuple(sorted((_leak(reason, line) for reason, line in lines), key=lambda leak: leak.reason))


def _first_of_each_reason(lines: Iterable[Json], most: int) -> Iterator[tuple[str, Json]]:
    """Yield the first ``most`` lines of each reason, with the reason; all lines are read, so each is checked."""
    seen: Counter[str] = Counter()
    for line in lines:
        reason = str(line.get("reason", "unknown"))
        seen[reason] += 1
        if seen[reason] <= most:
            yield reason, line


def _leak(reason: str, line: Json) -> LeakPair:
    removed, held_out = line.get("removed") or {}, line.get("eval") or {}
    where = f"{line.get('file')}, line {line.get('line')}"
    if reason == "similar":
        where = f"held-out record from line {held_out.get('line')}"
    return LeakPair(
        reason,
        (int(removed.get("source", -1)), int(removed.get("line", 0))),
        excerpt(where, 200).text,
        float(line.get("similarity") or line.get("share") or 0.0),
        excerpt(line.get("text"), LINE_CHARACTERS),
        excerpt(line.get("eval_text", line.get("evaluation_text")), LINE_CHARACTERS),
    )
