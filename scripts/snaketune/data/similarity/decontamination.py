"""Decontamination: training records that contain texts of an evaluation, found by shared word n-grams.

Words are compared turn by turn, in lower case and without punctuation; system prompts are ignored. A turn contains an
evaluation text if they share a 13-gram (the rule of GPT-3), or if the turn has at least half of the text's 8-grams
(similar to Tülu 3). A text of fewer than 13 words counts only if it is a whole user turn or a whole plain text: short
answers such as "Paris" occur everywhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path

import numpy as np

from snaketune.data.parallel import in_processes
from snaketune.data.records.canonical_records import Range, RoleAndText, count_lines, line_ranges, read_turns
from snaketune.data.similarity import hash_index
from snaketune.data.similarity.evaluation_texts import EvaluationText
from snaketune.data.similarity.hash_index import HashIndex
from snaketune.data.similarity.shingles import BATCH_TEXTS
from snaketune.data.similarity.word_hashing import folded, windows, word_hashes

# 13-grams as in GPT-3 (Brown et al. 2020, appendix C); 8-grams as in Tülu 3 (Lambert et al. 2024).
LONG_NGRAM, SHORT_NGRAM = 13, 8
LEAST_SHARE = 0.5
# The roles in which a whole short text of an evaluation counts: questions are distinctive, short answers are not.
OPEN_ROLES = ("user", "text")


@dataclass(frozen=True, slots=True)
class Contamination:
    """Contaminated records, each with the evaluation text that it overlaps most; all arrays have shape [records found].

    Attributes:
        record: int64, index in the file, ascending.
        text: int64, index of the evaluation text.
        long_run: bool, the record shares a 13-gram with some evaluation text.
        half: bool, the record has at least half of the 8-grams of some evaluation text.
        whole: bool, one of its turns is a whole short evaluation text.
        share: float64, the fraction of the text's 8-grams found in the record; 1 for a whole short text.
    """

    record: np.ndarray
    text: np.ndarray
    long_run: np.ndarray
    half: np.ndarray
    whole: np.ndarray
    share: np.ndarray

    def counts(self) -> dict[str, int]:
        """Return the number of records that each rule found."""
        rules = {"any_13_gram": self.long_run, "half_of_8_grams": self.half, "whole_short_text": self.whole}
        return {name: int(np.count_nonzero(found)) for name, found in rules.items()}


def runs(texts: Sequence[str]) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the word count of each text, and the hashes and offsets of its 13-grams and of its 8-grams."""
    # Copies of benchmarks often differ from the original in punctuation and case only.
    hashes, offsets = word_hashes([folded(text) for text in texts], punctuation_breaks=True)
    return np.diff(offsets), windows(hashes, offsets, LONG_NGRAM, 13), windows(hashes, offsets, SHORT_NGRAM, 8)


def build_index(texts: Iterator[EvaluationText], folder: Path) -> None:
    """Write indexes of the evaluation texts, by 13-gram and by 8-gram, to files in ``folder``."""
    found: dict[str, list[np.ndarray]] = {name: [np.zeros(0, np.int64)] for name in ("lengths", "long", "short")}
    owners: dict[str, list[np.ndarray]] = {name: [np.zeros(0, np.int64)] for name in ("long", "short")}
    done = 0
    while batch := [text.text for text in islice(texts, BATCH_TEXTS)]:
        lengths, *kinds = runs(batch)
        found["lengths"].append(lengths)
        for name, (hashes, offsets) in zip(("long", "short"), kinds, strict=True):
            owner = np.repeat(np.arange(len(batch)), np.diff(offsets))
            # ``windows`` gives a text shorter than n one run with all its words. Among the 13-grams it represents a
            # whole short text; among the 8-grams it would let a short phrase alone decide, so it is left out.
            counted = lengths[owner] >= (1 if name == "long" else LONG_NGRAM)
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
    """Return the chosen records that are contaminated.

    Args:
        path: canonical records.
        chosen: bool [records].
        folder: the folder written by :func:`build_index`.
        threads: processes to use; the result does not depend on their number.
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
    """Return the contaminated records among the chosen ones of a byte range."""
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
    batch: Sequence[tuple[int, RoleAndText]], indexes: Sequence[HashIndex], lengths: np.ndarray, sizes: np.ndarray
) -> Contamination:
    """Return one row for each pair of a turn and an evaluation text that overlap enough.

    A batch is halved until its turns share at most 2**21 n-grams with all texts, or one turn is left.
    """
    is_open = np.array([turn[0] in OPEN_ROLES for _, turn in batch])
    counts, *kinds = runs([turn[1] for _, turn in batch])
    # A short turn can only match a whole short text, and only in an open role: a short answer proves nothing.
    compared = (counts >= LONG_NGRAM) | (is_open & (counts > 0))
    owned = []
    for hashes, offsets in kinds:
        turn = np.repeat(np.arange(len(batch)), np.diff(offsets))
        owned.append((hashes[compared[turn]], turn[compared[turn]]))
    total = sum(index.count(hashes) for index, (hashes, _) in zip(indexes, owned, strict=True))
    if total > hash_index.HITS and len(batch) > 1:
        halves = batch[: len(batch) // 2], batch[len(batch) // 2 :]
        return _joined([_contamination(half, indexes, lengths, sizes) for half in halves])
    found = []
    for index, (hashes, turn) in zip(indexes, owned, strict=True):
        hits = [(turn[at], text, hashes[at].view(np.int64)) for at, text in index.find(hashes)]
        columns = [np.concatenate(column) for column in zip(*hits, strict=True)] if hits else [np.zeros(0, int)] * 3
        # Distinct hits only: a turn that repeats one 8-gram must not reach half of a text's 8-grams.
        found.append(np.unique(np.stack(columns, axis=1), axis=0))
    rated = _rated(found[0], found[1], lengths, sizes)
    record = np.array([record for record, _ in batch])
    return replace(rated, record=record[rated.record])


def _rated(long: np.ndarray, short: np.ndarray, lengths: np.ndarray, sizes: np.ndarray) -> Contamination:
    """Apply the rules to the distinct (turn, text, n-gram) hits; ``record`` of the result is the index of the turn."""
    pairs, place = np.unique(np.concatenate([long[:, :2], short[:, :2]]), axis=0, return_inverse=True)
    text = pairs[:, 1]
    place = place.reshape(-1)
    has_long = np.bincount(place[: len(long)], minlength=len(pairs)) > 0
    share = np.bincount(place[len(long) :], minlength=len(pairs)) / np.maximum(1, sizes[text])
    # A hit among the 13-grams of a text that has fewer words is a match of the whole text.
    whole = has_long & (lengths[text] < LONG_NGRAM)
    share[whole] = 1
    half = (share >= LEAST_SHARE) & ~whole
    keep = has_long | half
    return Contamination(pairs[keep, 0], text[keep], (has_long & ~whole)[keep], half[keep], whole[keep], share[keep])


def _merged(found: Contamination) -> Contamination:
    """Return one row per record, with the text that it overlaps most; a rule holds if it holds for any text."""
    # Ties go to the first text, so the result does not depend on the division into batches.
    order = np.lexsort((found.text, -found.share, found.record))
    record, starts = np.unique(found.record[order], return_index=True)
    if not len(record):
        return found
    long_run, half, whole = (
        np.logical_or.reduceat(rule[order], starts) for rule in (found.long_run, found.half, found.whole)
    )
    best = order[starts]
    return Contamination(record, found.text[best], long_run, half, whole, found.share[best])
