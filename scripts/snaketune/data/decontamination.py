"""Training records that contain texts of an evaluation: found by runs of words that both have.

Words are compared in lower case and without punctuation, turn by turn, system prompts aside. A turn contains a text
if they share a run of 13 words (as for GPT-3), or at least half of the text's runs of 8 words (near to Tülu 3). Texts
of fewer than 13 words count only where they are the whole of a user's turn or of a plain text: a short answer such
as "Paris" occurs everywhere.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from snaketune.common.digests import file_digest
from snaketune.common.errors import DataError
from snaketune.data.compression import decompressed
from snaketune.data.overlap import HashIndex
from snaketune.data.parallel import in_processes
from snaketune.data.records import Range, Turn, count_lines, line_ranges, read_turns
from snaketune.data.shingles import BATCH_TEXTS, folded, windows, words

LONG, SHORT = 13, 8
LEAST_SHARE = 0.5
OPEN_ROLES = ("user", "text")


@dataclass(frozen=True, slots=True)
class EvaluationText:
    """A text of an evaluation and where it stands."""

    path: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Contamination:
    """Contaminated records, each with the evaluation text that it has most of; all arrays [records found].

    Attributes:
        record: int64, index in the file, ascending.
        text: int64, index among the evaluation texts.
        long_run: bool, some text shares a run of 13 words with it.
        half: bool, it has half of the runs of 8 words of some text.
        whole: bool, a turn of it is a whole short text.
        share: float64, the share of the text's runs (of 8 words; 1 for a whole short text) that the record has.
    """

    record: np.ndarray
    text: np.ndarray
    long_run: np.ndarray
    half: np.ndarray
    whole: np.ndarray
    share: np.ndarray

    def counts(self) -> dict[str, int]:
        """Return how many records each rule found."""
        rules = {"any_13_gram": self.long_run, "half_of_8_grams": self.half, "whole_short_text": self.whole}
        return {name: int(np.count_nonzero(found)) for name, found in rules.items()}


def read_evaluation_texts(entries: Sequence[dict[str, str]]) -> Iterator[EvaluationText]:
    """Yield the texts of evaluation files: every string value of JSON lines, every line of other files.

    Args:
        entries: ``{path, digest}`` as the workflow found them when it started.

    Raises:
        DataError: if a file changed since, cannot be parsed or holds no text.
    """
    for entry in entries:
        path, found = entry["path"], False
        if file_digest(path) != entry["digest"]:
            raise DataError(f"split.decontaminate: {path} changed while the workflow runs: run the same command again.")
        for number, line in _lines_of(path):
            for text in _texts_of(line, path, number):
                found = True
                yield EvaluationText(path, number, text)
        if not found:
            raise DataError(f"split.decontaminate: {path} holds no text: remove it from the list or fill it.")


def _lines_of(path: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    with open(path, "rb", buffering=0) as raw, io.BufferedReader(decompressed(raw, path)) as lines:
        try:
            for number, line in enumerate(lines, 1):
                yield number, line
        except EOFError as error:
            raise DataError(
                f"split.decontaminate: {path} is damaged or cut short after line {number} ({error}): fetch or compress"
                " it again."
            ) from None


def _texts_of(line: bytes, path: str, number: int) -> list[str]:
    if not line.strip():
        return []
    if path.removesuffix(".gz").removesuffix(".zst").endswith(".txt"):
        return [line.decode("utf-8", "replace").strip()]
    try:
        return list(_strings(orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))))
    except orjson.JSONDecodeError as error:
        raise DataError(
            f"split.decontaminate: {path} line {number} is not JSON ({error.msg}): correct it, or name the file .txt."
        ) from None


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            waiting.extend(reversed(list(value.values()) if isinstance(value, dict) else value))


def runs(texts: Sequence[str]) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the number of words of each text and the hashes and offsets of its runs of 13 and of 8 words."""
    hashes, offsets = words([folded(text) for text in texts], punctuation_breaks=True)
    return np.diff(offsets), windows(hashes, offsets, LONG, 13), windows(hashes, offsets, SHORT, 8)


def build_index(texts: Iterator[EvaluationText], folder: Path) -> None:
    """Index evaluation texts by their runs in files of ``folder``."""
    found: dict[str, list[np.ndarray]] = {name: [np.zeros(0, np.int64)] for name in ("lengths", "long", "short")}
    owners: dict[str, list[np.ndarray]] = {name: [np.zeros(0, np.int64)] for name in ("long", "short")}
    done = 0
    while batch := [text.text for text in islice(texts, BATCH_TEXTS)]:
        lengths, *kinds = runs(batch)
        found["lengths"].append(lengths)
        for name, (hashes, offsets) in zip(("long", "short"), kinds, strict=True):
            owner = np.repeat(np.arange(len(batch)), np.diff(offsets))
            counted = lengths[owner] >= (1 if name == "long" else LONG)
            found[name].append(hashes[counted].view(np.int64))
            owners[name].append(owner[counted] + done)
        done += len(batch)
    np.save(folder / "lengths.npy", np.concatenate(found["lengths"]))
    for name in ("long", "short"):
        index = HashIndex.build(np.concatenate(found[name]).view(np.uint64), np.concatenate(owners[name]))
        index.save(folder / name)
        sizes = np.bincount(index.owners, minlength=done) if done else np.zeros(0, np.int64)
        np.save(folder / f"{name}_sizes.npy", sizes)


def find_contamination(path: Path, chosen: np.ndarray, folder: Path, threads: int = 1) -> Contamination:
    """Return the contaminated ones of the chosen records.

    Args:
        path: canonical records.
        chosen: bool [records].
        folder: the folder of :func:`build_index`.
        threads: processes to use; they do not change the result.
    """
    ranges = line_ranges(path)
    firsts = np.cumsum([0, *(count_lines(path, span) for span in ranges)])
    tasks = [
        (path, span, chosen[first:stop], int(first), folder)
        for span, first, stop in zip(ranges, firsts[:-1], firsts[1:], strict=True)
    ]
    return _joined(list(in_processes(contamination_of_range, tasks, threads)))


def _joined(parts: Sequence[Contamination]) -> Contamination:
    kinds = {"record": int, "text": int, "share": float}
    return Contamination(
        **{
            field.name: np.concatenate(
                [np.zeros(0, kinds.get(field.name, bool)), *(getattr(part, field.name) for part in parts)]
            )
            for field in fields(Contamination)
        }
    )


def contamination_of_range(path: Path, span: Range, chosen: np.ndarray, first: int, folder: Path) -> Contamination:
    """Return the contaminated ones of the chosen records of a range."""
    indexes = [HashIndex.load(folder / name) for name in ("long", "short")]
    lengths, sizes = np.load(folder / "lengths.npy"), np.load(folder / "short_sizes.npy")
    records = (np.flatnonzero(chosen) + first).tolist()
    turns = (
        (record, turn)
        for record, found in zip(records, read_turns(path, span, chosen.tolist()), strict=True)
        for turn in found
        if turn[0] != "system"
    )
    parts = []
    while batch := list(islice(turns, BATCH_TEXTS)):
        parts.append(_contamination(batch, indexes, lengths, sizes))
    return _merged(_joined(parts))


def _contamination(
    batch: Sequence[tuple[int, Turn]], indexes: Sequence[HashIndex], lengths: np.ndarray, sizes: np.ndarray
) -> Contamination:
    """Return one row for each turn and evaluation text that have enough in common."""
    is_open = np.array([turn[0] in OPEN_ROLES for _, turn in batch])
    counts, *kinds = runs([turn[1] for _, turn in batch])
    compared = (counts >= LONG) | (is_open & (counts > 0))
    found = []
    for index, (hashes, offsets) in zip(indexes, kinds, strict=True):
        turn = np.repeat(np.arange(len(batch)), np.diff(offsets))
        hashes, turn = hashes[compared[turn]], turn[compared[turn]]
        hits = [(turn[at], text, hashes[at].view(np.int64)) for at, text in index.find(hashes)]
        columns = [np.concatenate(column) for column in zip(*hits, strict=True)] if hits else [np.zeros(0, int)] * 3
        found.append(np.unique(np.stack(columns, axis=1), axis=0))
    rated = _rated(found[0], found[1], lengths, sizes)
    record = np.array([record for record, _ in batch])
    return replace(rated, record=record[rated.record])


def _rated(long: np.ndarray, short: np.ndarray, lengths: np.ndarray, sizes: np.ndarray) -> Contamination:
    """Apply the rules to distinct (turn, text, run) hits of runs of 13 and of 8 words; ``record`` is the turn."""
    pairs, place = np.unique(np.concatenate([long[:, :2], short[:, :2]]), axis=0, return_inverse=True)
    text = pairs[:, 1]
    place = place.reshape(-1)
    has_long = np.bincount(place[: len(long)], minlength=len(pairs)) > 0
    share = np.bincount(place[len(long) :], minlength=len(pairs)) / np.maximum(1, sizes[text])
    whole = has_long & (lengths[text] < LONG)
    share[whole] = 1
    half = (share >= LEAST_SHARE) & ~whole
    keep = has_long | half
    return Contamination(pairs[keep, 0], text[keep], (has_long & ~whole)[keep], half[keep], whole[keep], share[keep])


def _merged(found: Contamination) -> Contamination:
    """Return one row per record: with the text it has most of, and what any text says by each rule."""
    order = np.lexsort((found.text, -found.share, found.record))
    record, starts = np.unique(found.record[order], return_index=True)
    if not len(record):
        return found
    long_run, half, whole = (
        np.logical_or.reduceat(rule[order], starts) for rule in (found.long_run, found.half, found.whole)
    )
    best = order[starts]
    return Contamination(record, found.text[best], long_run, half, whole, found.share[best])
