"""Leaks between the sides of a split: training records similar to held-out ones, and prompts on both sides.

Held-out records made from a template are similar to very many training records. They are recognised early, from a
sample, since comparing every member of such a family with every other is quadratic.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snaketune.data.parallel import in_processes
from snaketune.data.records.canonical_records import Range, count_lines, line_ranges, read_turns
from snaketune.data.similarity.minhash import near_text
from snaketune.data.similarity.overlap import SimilarityIndex
from snaketune.data.similarity.shingles import ShingleRows, batches, shingled, taken

NGRAM = 5
# An evenly spaced sample of at least this many training records (at most every 64th) reveals template families.
SAMPLED_RECORDS, SAMPLED_SHARE, PIECE_RECORDS = 4096, 64, 256
# Upper bound on the pairs compared at once if every pair is similar.
COMPARED_AT_ONCE = 1 << 18
# Pairs that are read back from a file at once.
LISTED_AT_ONCE = 1 << 18
# The index is rebuilt when less than this fraction of its rows is still needed.
FULL_ENOUGH = 0.9
THRESHOLDS = (0.5, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class Side:
    """Some of the records of a file.

    Attributes:
        path: canonical records.
        chosen: bool [records], or None for all.
    """

    path: Path
    chosen: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Leaks:
    """Training records similar to a held-out record, each with the held-out record most similar to it.

    Attributes:
        train: int64 [leaks], index of the training record in its file, ascending.
        evaluation: int64 [leaks], index of the held-out record.
        similarity: float64 [leaks], exact Jaccard similarity of their shingles.
        closest: float64 [held-out records], highest similarity to any training record compared; 0 if below the
            threshold.
        template_family: int64, indices of the held-out records that are not listed above because too many training
            records are similar to them.
    """

    train: np.ndarray
    evaluation: np.ndarray
    similarity: np.ndarray
    closest: np.ndarray
    template_family: np.ndarray

    def counts(self, least: float) -> dict[str, int]:
        """Return how many held-out records have a training record of at least ``least``, 0.5, 0.8 and 1 similarity.

        For members of template families, which are not compared with every training record, this is a lower bound.
        """
        wanted = sorted({least, *(threshold for threshold in THRESHOLDS if threshold >= least)})
        return {f"{threshold:g}": int(np.count_nonzero(self.closest >= threshold)) for threshold in wanted}


def find_leaks(
    train: Side, evaluation: Side, threshold: float, folder: Path, threads: int = 1, most: int | None = None
) -> Leaks:
    """Find every training record whose similarity to a held-out record reaches ``threshold``. The search is exact.

    Args:
        train: the records to search.
        evaluation: the held-out records; their shingles are held in memory.
        threshold: Jaccard similarity; also decides which texts count as short.
        folder: an empty folder for temporary files.
        threads: processes to use; the result does not depend on their number.
        most: held-out records with more similar training records than this belong to a template family and are
            excluded. None excludes none.
    """
    return search(tasks_of(train, threshold), evaluation, threshold, folder, threads, most)


def search(
    tasks: Sequence[tuple[Any, ...]],
    evaluation: Side,
    threshold: float,
    folder: Path,
    threads: int,
    most: int | None = None,
) -> Leaks:
    """Search ranges of training records, from :func:`tasks_of`, as :func:`find_leaks` does.

    Memory holds the held-out records, 16 bytes of each of them for each range in flight, and the pairs that are listed;
    all other pairs pass through files in ``folder``.
    """
    rows = _rows(list(in_processes(shingles_of_range, tasks_of(evaluation, threshold), threads)))
    closest = np.zeros(int(rows.owner[-1]) + 1 if len(rows) else 0)
    template_family = np.zeros(len(closest), bool)
    if most is not None:
        template_family = _surely_alike(rows, tasks, threshold, most, closest, threads)
        # Families found in the sample leave the index before the full search, whose cost is the number of similar
        # pairs.
        rows = taken(rows, np.flatnonzero(~template_family[rows.owner]))
    SimilarityIndex.build(rows, threshold).save(folder / "held_out")
    searches = [(*task, folder / "held_out", most) for task in tasks if len(rows)]
    counts, files = np.zeros(len(closest), np.int64), list[Path]()
    for found in in_processes(leaks_of_range, searches, threads):
        np.maximum(closest[: len(found.closest)], found.closest, out=closest[: len(found.closest)])
        counts[: len(found.counts)] += found.counts
        files.append(found.pairs)
    if most is not None:
        # The sample proves membership in a family but not the opposite: a family too small for the sample shows only in
        # the full count.
        template_family |= counts > most
    record, other, similarity = np.concatenate(
        [np.zeros((3, 0)), *(_listed(path, template_family) for path in files)], axis=1
    )
    return Leaks(record.astype(np.int64), other.astype(np.int64), similarity, closest, np.flatnonzero(template_family))


def _surely_alike(
    rows: ShingleRows, tasks: Sequence[tuple[Any, ...]], threshold: float, most: int, closest: np.ndarray, threads: int
) -> np.ndarray:
    """Return which held-out records are similar to more than ``most`` records of a sample of training records, bool.

    This avoids comparing every record with every other where all come from one template. Updates ``closest``.
    """
    records = sum(int(task[2].sum()) for task in tasks)
    # Evenly spaced by rank rather than random: the same sample for any division into ranges.
    step = min(SAMPLED_SHARE, max(1, records // SAMPLED_RECORDS))
    sampled, before = [], 0
    for path, span, chosen, *rest in tasks:
        rank = before + np.cumsum(chosen)
        sampled.append((path, span, chosen & (rank % step == 0), *rest))
        before = int(rank[-1]) if len(rank) else before
    sample = _Sample(in_processes(shingles_of_range, sampled, threads))
    counts, index = np.zeros(len(closest), np.int64), SimilarityIndex.build(rows, threshold)
    # The pieces start small, since every record may be similar to every held-out one. They grow while few pairs are
    # found and shrink otherwise; each found family leaves the index, so that later pieces are cheap.
    size = COMPARED_AT_ONCE // max(1, len(index.rows))
    while len(index.rows) and len(piece := sample.take(max(1, size))):
        found = 0
        for _, other, similarity in _pairs(piece, index):
            np.maximum.at(closest, other, similarity)
            counts += np.bincount(other, minlength=len(counts))
            found += len(other)
        index = _without_families(index, counts, most)
        size = min(max(1, 2 * size), PIECE_RECORDS) if found < COMPARED_AT_ONCE // 8 else size // 2
    return counts > most


class _Sample:
    """The shingles of some records, taken a few at a time; only those of one range are held.

    Args:
        parts: the shingles of each range.
    """

    def __init__(self, parts: Iterator[ShingleRows]):
        self._parts, self._rows = parts, _rows([])

    def take(self, most: int) -> ShingleRows:
        """Return the rows of the next ``most`` records, or of all that are left."""
        while len(starts := self._starts()) <= most and (part := next(self._parts, None)) is not None:
            self._rows = _rows([self._rows, part])
        stop = int(starts[min(most, len(starts) - 1)])
        found, self._rows = (taken(self._rows, np.arange(*span)) for span in ((0, stop), (stop, len(self._rows))))
        return found

    def _starts(self) -> np.ndarray:
        """Return where the rows of each record start, and their end."""
        return np.append(np.flatnonzero(np.diff(self._rows.owner, prepend=-1)), len(self._rows))


def _pairs(rows: ShingleRows, held_out: SimilarityIndex) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (training record, held-out record, similarity) of all similar pairs, each once, record by record."""
    # A text of medium length has two rows, words and characters: the more similar one counts.
    for x, y, similarity in held_out.similar(rows):
        record, other = rows.owner[x], held_out.rows.owner[y]
        order = np.lexsort((-similarity, other, record))
        record, other, similarity = record[order], other[order], similarity[order]
        new = np.ones(len(order), bool)
        new[1:] = (record[1:] != record[:-1]) | (other[1:] != other[:-1])
        yield record[new], other[new], similarity[new]


def _best(pairs: np.ndarray) -> np.ndarray:
    """Return the most similar pair of each training record, from pairs of shape [3, pairs]."""
    record, other, similarity = pairs
    order = np.lexsort((other, -similarity, record))
    return pairs[:, order[np.unique(record[order], return_index=True)[1]]]


def tasks_of(side: Side, threshold: float) -> list[tuple[Any, ...]]:
    """Return (path, range, chosen records of the range, index of its first record, threshold) for each range."""
    ranges = line_ranges(side.path)
    firsts = np.cumsum([0, *(count_lines(side.path, span) for span in ranges)])
    chosen = np.ones(firsts[-1], bool) if side.chosen is None else side.chosen
    return [
        (side.path, span, chosen[first:stop], int(first), threshold)
        for span, first, stop in zip(ranges, firsts[:-1], firsts[1:], strict=True)
    ]


def _shingled_batches(
    path: Path, span: Range, chosen: np.ndarray, first: int, threshold: float
) -> Iterator[ShingleRows]:
    """Yield shingles of the chosen records of a range, owned by the index of the record in the file."""
    records = np.flatnonzero(chosen) + first
    done = 0
    for batch in batches(near_text(turns) for turns in read_turns(path, span, chosen.tolist())):
        rows = shingled(batch, NGRAM, threshold)
        yield ShingleRows(records[done + rows.owner], rows.hashes, rows.offsets)
        done += len(batch)


def shingles_of_range(path: Path, span: Range, chosen: np.ndarray, first: int, threshold: float) -> ShingleRows:
    """Return the shingles of the chosen records of a range."""
    return _rows(list(_shingled_batches(path, span, chosen, first, threshold)))


def _rows(parts: Sequence[ShingleRows]) -> ShingleRows:
    owner = np.concatenate([np.zeros(0, np.int64), *(part.owner for part in parts)])
    hashes = np.concatenate([np.zeros(0, np.uint64), *(part.hashes for part in parts)])
    lengths = np.concatenate([[0], *(np.diff(part.offsets) for part in parts)])
    return ShingleRows(owner, hashes, np.cumsum(lengths.astype(np.int64)))


@dataclass(frozen=True, slots=True)
class LeaksOfRange:
    """Result of the search of a range of training records.

    Attributes:
        pairs: a file of float64 [pairs, 3]: training record, held-out record and similarity, in the order of the first.
        closest: float64 [held-out records], highest similarity to any training record compared.
        counts: int64 [held-out records], how many training records are similar.
    """

    pairs: Path
    closest: np.ndarray
    counts: np.ndarray


def leaks_of_range(
    path: Path, span: Range, chosen: np.ndarray, first: int, threshold: float, index: Path, most: int | None
) -> LeaksOfRange:
    """Search a range of training records; pairs go to a file next to the index, so memory holds few of them.

    Without ``most``, the file has the most similar pair of each training record. With it, all pairs, but a held-out
    record with more similar training records is followed only until that is established: the cost of finding them all
    is unbounded.
    """
    held_out = SimilarityIndex.load(index, threshold)
    count = int(held_out.rows.owner[-1]) + 1 if len(held_out.rows) else 0
    found = LeaksOfRange(index.with_name(f"pairs-{span[0]}"), np.zeros(count), np.zeros(count, np.int64))
    with open(found.pairs, "wb") as file:
        for rows in _shingled_batches(path, span, chosen, first, threshold):
            for record, other, similarity in _pairs(rows, held_out):
                np.maximum.at(found.closest, other, similarity)
                np.add.at(found.counts, other, 1)
                pairs = np.stack((record, other, similarity))
                file.write((_best(pairs) if most is None else pairs).T.tobytes())
            if most is not None:
                held_out = _without_families(held_out, found.counts, most)
    return found


def _listed(path: Path, template_family: np.ndarray) -> np.ndarray:
    """Return the most similar pair of each training record of a file of pairs, without template families.

    Removes the file.
    """
    best = np.zeros((3, 0))
    with open(path, "rb") as file:
        while (pairs := np.fromfile(file, np.float64, 3 * LISTED_AT_ONCE).reshape(-1, 3).T).size:
            kept = pairs[:, ~template_family[pairs[1].astype(np.int64)]]
            # The pairs of a record may continue in the next piece.
            last = np.searchsorted(best[0], kept[0, 0]) if kept.size else best.shape[1]
            best = np.concatenate([best[:, :last], _best(np.concatenate([best[:, last:], kept], axis=1))], axis=1)
    path.unlink()
    return best


def _without_families(held_out: SimilarityIndex, counts: np.ndarray, most: int) -> SimilarityIndex:
    """Return the index without held-out records that exceed ``most``, rebuilt only if enough of them accumulated."""
    left = np.flatnonzero(counts[held_out.rows.owner] <= most)
    if len(left) >= FULL_ENOUGH * len(held_out.rows):
        return held_out
    return SimilarityIndex.build(taken(held_out.rows, left), held_out.threshold)
