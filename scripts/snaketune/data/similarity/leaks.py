"""Leaks between the sides of a split: training records similar to held-out ones, and prompts on both sides.

Held-out records made from a template are similar to very many training records. They are recognised early, from a
sample, since comparing every member of such a family with every other is quadratic.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from snaketune.core.errors import DataError
from snaketune.data.parallel import in_processes
from snaketune.data.records.canonical_records import Range, count_lines, key_bytes, line_ranges, prompt_of, read_turns
from snaketune.data.similarity.minhash import near_text
from snaketune.data.similarity.overlap import SimilarityIndex
from snaketune.data.similarity.shingles import Rows, batches, shingled, taken

NGRAM = 5
# The final check fails if a training record is this similar to a held-out one.
FORBIDDEN = 0.8
# The final check searches about this many evenly spaced ranges of a long training file.
CHECKED_RANGES = 4
# An evenly spaced sample of at least this many training records (at most every 64th) reveals template families.
SAMPLED_RECORDS, SAMPLED_SHARE, PIECE_RECORDS = 4096, 64, 256
# Upper bound on the pairs compared at once if every pair is similar.
COMPARED_AT_ONCE = 1 << 18
# The index is rebuilt when less than this fraction of its rows is still needed.
FULL_ENOUGH = 0.9
THRESHOLDS = (0.5, FORBIDDEN, 1.0)


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
    return _search(_tasks(train, threshold), evaluation, threshold, folder, threads, most)


def _search(
    tasks: Sequence[tuple[Any, ...]],
    evaluation: Side,
    threshold: float,
    folder: Path,
    threads: int,
    most: int | None = None,
) -> Leaks:
    rows = _rows(list(in_processes(shingles_of_range, _tasks(evaluation, threshold), threads)))
    closest = np.zeros(int(rows.owner[-1]) + 1 if len(rows) else 0)
    template_family = np.zeros(len(closest), bool)
    if most is not None:
        template_family = _surely_alike(rows, tasks, threshold, most, closest, threads)
        rows = taken(rows, np.flatnonzero(~template_family[rows.owner]))
    SimilarityIndex.build(rows, threshold).save(folder / "held_out")
    searches = [(*task, folder / "held_out", most) for task in tasks if len(rows)]
    pairs = np.concatenate([np.zeros((3, 0)), *in_processes(leaks_of_range, searches, threads)], axis=1)
    other = pairs[1].astype(np.int64)
    np.maximum.at(closest, other, pairs[2])
    if most is not None:
        template_family |= np.bincount(other, minlength=len(template_family)) > most
    record, other, similarity = _best(pairs[:, ~template_family[other]])
    return Leaks(record.astype(np.int64), other.astype(np.int64), similarity, closest, np.flatnonzero(template_family))


def _surely_alike(
    rows: Rows, tasks: Sequence[tuple[Any, ...]], threshold: float, most: int, closest: np.ndarray, threads: int
) -> np.ndarray:
    """Return which held-out records are similar to more than ``most`` records of a sample of training records, bool.

    This avoids comparing every record with every other where all come from one template. Updates ``closest``.
    """
    records = sum(int(task[2].sum()) for task in tasks)
    step = min(SAMPLED_SHARE, max(1, records // SAMPLED_RECORDS))
    sampled, before = [], 0
    for path, span, chosen, *rest in tasks:
        rank = before + np.cumsum(chosen)
        sampled.append((path, span, chosen & (rank % step == 0), *rest))
        before = int(rank[-1]) if len(rank) else before
    sample = _rows(list(in_processes(shingles_of_range, sampled, threads)))
    starts = [*np.flatnonzero(np.diff(sample.owner, prepend=-1)).tolist(), len(sample)]
    counts, index, done = np.zeros(len(closest), np.int64), SimilarityIndex.build(rows, threshold), 0
    # The pieces start small, since every record may be similar to every held-out one. They grow while few pairs are
    # found and shrink otherwise; each found family leaves the index, so that later pieces are cheap.
    size = COMPARED_AT_ONCE // max(1, len(index.rows))
    while done < len(starts) - 1 and len(index.rows):
        stop = min(done + max(1, size), len(starts) - 1)
        _, other, similarity = _pairs(taken(sample, np.arange(starts[done], starts[stop])), index)
        np.maximum.at(closest, other, similarity)
        counts += np.bincount(other, minlength=len(counts))
        index = _without_families(index, counts, most)
        done, size = stop, min(max(1, 2 * size), PIECE_RECORDS) if len(other) < COMPARED_AT_ONCE // 8 else size // 2
    return counts > most


def _pairs(rows: Rows, held_out: SimilarityIndex) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (training record, held-out record, similarity) of all similar pairs, each once."""
    # A text of medium length has two rows, words and characters: the more similar one counts.
    x, y, similarity = held_out.similar(rows)
    record, other = rows.owner[x], held_out.rows.owner[y]
    order = np.lexsort((-similarity, other, record))
    record, other, similarity = record[order], other[order], similarity[order]
    new = np.ones(len(order), bool)
    new[1:] = (record[1:] != record[:-1]) | (other[1:] != other[:-1])
    return record[new], other[new], similarity[new]


def _best(pairs: np.ndarray) -> np.ndarray:
    """Return the most similar pair of each training record, from pairs of shape [3, pairs]."""
    record, other, similarity = pairs
    order = np.lexsort((other, -similarity, record))
    return pairs[:, order[np.unique(record[order], return_index=True)[1]]]


def _tasks(side: Side, threshold: float) -> list[tuple[Any, ...]]:
    """Return (path, range, chosen records of the range, index of its first record, threshold) for each range."""
    ranges = line_ranges(side.path)
    firsts = np.cumsum([0, *(count_lines(side.path, span) for span in ranges)])
    chosen = np.ones(firsts[-1], bool) if side.chosen is None else side.chosen
    return [
        (side.path, span, chosen[first:stop], int(first), threshold)
        for span, first, stop in zip(ranges, firsts[:-1], firsts[1:], strict=True)
    ]


def _shingled_batches(path: Path, span: Range, chosen: np.ndarray, first: int, threshold: float) -> Iterator[Rows]:
    """Yield shingles of the chosen records of a range, owned by the index of the record in the file."""
    records = np.flatnonzero(chosen) + first
    done = 0
    for batch in batches(near_text(turns) for turns in read_turns(path, span, chosen.tolist())):
        rows = shingled(batch, NGRAM, threshold)
        yield Rows(records[done + rows.owner], rows.hashes, rows.offsets)
        done += len(batch)


def shingles_of_range(path: Path, span: Range, chosen: np.ndarray, first: int, threshold: float) -> Rows:
    """Return the shingles of the chosen records of a range."""
    return _rows(list(_shingled_batches(path, span, chosen, first, threshold)))


def _rows(parts: Sequence[Rows]) -> Rows:
    owner = np.concatenate([np.zeros(0, np.int64), *(part.owner for part in parts)])
    hashes = np.concatenate([np.zeros(0, np.uint64), *(part.hashes for part in parts)])
    lengths = np.concatenate([[0], *(np.diff(part.offsets) for part in parts)])
    return Rows(owner, hashes, np.cumsum(lengths.astype(np.int64)))


def leaks_of_range(
    path: Path, span: Range, chosen: np.ndarray, first: int, threshold: float, index: Path, most: int | None
) -> np.ndarray:
    """Search a range of training records.

    Returns:
        Training record, held-out record and similarity, float64 [3, pairs]. Without ``most``, only the most similar
        pair of each training record and of each held-out record. With it, a held-out record with more similar training
        records is followed only until that is established: the cost of finding them all is unbounded.
    """
    held_out = SimilarityIndex.load(index, threshold)
    found = [np.zeros((3, 0))]
    counts = np.zeros(int(held_out.rows.owner[-1]) + 1 if len(held_out.rows) else 0, np.int64)
    for rows in _shingled_batches(path, span, chosen, first, threshold):
        pairs = np.stack(_pairs(rows, held_out))
        if most is None:
            found.append(np.concatenate([_best(pairs), _best(pairs[[1, 0, 2]])[[1, 0, 2]]], axis=1))
            continue
        found.append(pairs)
        counts += np.bincount(pairs[1].astype(np.int64), minlength=len(counts))
        held_out = _without_families(held_out, counts, most)
    return np.concatenate(found, axis=1)


def _without_families(held_out: SimilarityIndex, counts: np.ndarray, most: int) -> SimilarityIndex:
    """Return the index without held-out records that exceed ``most``, rebuilt only if enough of them accumulated."""
    left = np.flatnonzero(counts[held_out.rows.owner] <= most)
    if len(left) >= FULL_ENOUGH * len(held_out.rows):
        return held_out
    return SimilarityIndex.build(taken(held_out.rows, left), held_out.threshold)


def check_sides(train: Path, evaluation: Side, template_family: bool, folder: Path, threads: int = 1) -> dict[str, int]:
    """Read both written sides back and check that they share nothing.

    All prompts are compared. Similar texts are searched in full up to 64 MiB of training records and in a sample of
    ranges beyond; ``records_checked`` is the number of records searched.

    Args:
        train: the training records.
        evaluation: the held-out records; the choice applies to similar texts only, prompts are always compared.
        template_family: whether to search for similar texts, too.
        folder: an empty folder for temporary files.
        threads: processes to use.

    Raises:
        DataError: if a prompt is on both sides or two texts are too similar.
    """
    prompts = [_prompt_keys(path, threads) for path in (train, evaluation.path)]
    shared = {"shared_prompts": int(np.isin(prompts[1], prompts[0]).sum())}
    checked = {}
    if template_family:
        tasks = _tasks(Side(train), FORBIDDEN)
        tasks = tasks[:: max(1, -(-len(tasks) // CHECKED_RANGES))]
        shared["similar_pairs"] = len(_search(tasks, evaluation, FORBIDDEN, folder, threads).train)
        checked["records_checked"] = sum(len(chosen) for _, _, chosen, *_ in tasks)
    if any(shared.values()):
        raise DataError(
            f"split: after splitting {shared} occur on both sides, which must never happen: please report this with "
            "the configuration; another split.seed may avoid it."
        )
    return {**shared, **checked}


def _prompt_keys(path: Path, threads: int) -> np.ndarray:
    tasks = [(path, span) for span in line_ranges(path)]
    return np.frombuffer(b"".join(in_processes(prompt_keys_of_range, tasks, threads)), np.uint64)


def prompt_keys_of_range(path: Path, span: Range) -> bytes:
    """Return a 64-bit hash of each normalised prompt of a range, 8 bytes each in native byte order."""
    hashes = (xxhash.xxh3_64_intdigest(key_bytes(prompt_of(turns))) for turns in read_turns(path, span))
    return np.fromiter(hashes, np.uint64).tobytes()
