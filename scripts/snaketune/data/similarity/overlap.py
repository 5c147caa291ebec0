"""An exact similarity search for all rows above a threshold.

Unlike MinHash with LSH, prefix filtering misses no pair: it suits a small fixed set (the held-out records) searched by
many others, where one missed leak matters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snaketune.data.similarity import hash_index
from snaketune.data.similarity.bitmaps import ROUNDING_TOLERANCE, bitmaps, may_be_similar
from snaketune.data.similarity.hash_index import FEWEST_FLAGS, MOST_FLAGS, HashIndex, mapped, ranges_within, slots
from snaketune.data.similarity.shingles import ShingleRows, hashes_of_rows, jaccard

# Pairs whose bitmaps are compared at once, 256 bytes for each side.
BITMAP_PAIRS = 1 << 14
BLOCK_SHINGLES, OVERLAP_BLOCK_ROWS = 1 << 20, 1 << 14
# 50 bits of a shingle's hash and 14 bits of its row's number within a block are packed into one sortable integer.
HASH_BITS, ROW_BITS = np.uint64(50), np.uint64(14)
PLACE_BITS = 24
# Counting by a table of all rows of the index costs as much as sorting the hits if there are this many of them:
# TABLE_HITS, plus one per TABLE_ROWS_PER_HIT rows of the index.
TABLE_HITS, TABLE_ROWS_PER_HIT = 256, 64
# Frequencies up to this one are exact; above it a step of the byte is a fifth of an octave.
EXACT_FREQUENCY, STEPS_PER_OCTAVE = 128, 5
NEVER = np.int64(1 << 62)


@dataclass(frozen=True, slots=True)
class SimilarityIndex:
    """Finds every row of a fixed set whose Jaccard similarity to a given row reaches a threshold.

    Two similar rows share at least one of the rarest shingles of each, provided that both use the same order of
    rarity. Only these prefixes are indexed and looked up (prefix filtering, Chaudhuri et al. 2006). The sizes of both
    rows bound how many of them must be shared (as in PPJoin, Xiao et al. 2008), bitmaps reject more candidates, and
    the rest is compared exactly. No pair is missed.

    Attributes:
        rows: the fixed set.
        sizes: int64 [rows], distinct shingles of each row.
        maps: uint64 [rows, 32], their bitmaps.
        frequency: uint8, for each value of a hash's upper bits the number of shingles of the set with it, as
            :func:`_rarity` codes it.
        index: the rarest shingles of each row.
        threshold: minimum similarity.
    """

    rows: ShingleRows
    sizes: np.ndarray
    maps: np.ndarray
    frequency: np.ndarray
    index: HashIndex
    threshold: float

    @classmethod
    def build(cls, rows: ShingleRows, threshold: float) -> "SimilarityIndex":
        """Index ``rows``."""
        # Frequencies come from the indexed set alone, so the order of rarity is known before any other text is read.
        frequency, found = _frequency(rows.hashes), [(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, int))]
        for start, stop in _blocks(rows):
            hashes, row, sizes = _rarest(rows, start, stop, frequency, threshold)
            found.append((hashes, row + start, sizes))
        hashes, row, sizes = (np.concatenate(column) for column in zip(*found, strict=True))
        return cls(rows, sizes, bitmaps(rows), frequency, HashIndex.build(hashes, row, flagged=False), threshold)

    def save(self, path: Path) -> None:
        """Write the index to files named ``path``.*."""
        self.index.save(path)
        for name in ("sizes", "maps", "frequency"):
            np.save(path.with_suffix(f".{name}.npy"), getattr(self, name))
        for name in ShingleRows.__slots__:
            np.save(path.with_suffix(f".row_{name}.npy"), getattr(self.rows, name))

    @classmethod
    def load(cls, path: Path, threshold: float) -> "SimilarityIndex":
        """Return the memory-mapped index at ``path``."""
        rows = ShingleRows(*(mapped(path.with_suffix(f".row_{name}.npy")) for name in ShingleRows.__slots__))
        sizes, maps, frequency = (mapped(path.with_suffix(f".{name}.npy")) for name in ("sizes", "maps", "frequency"))
        return cls(rows, sizes, maps, frequency, HashIndex.load(path), threshold)

    def similar(self, others: ShingleRows) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (row of ``others``, row of the index, similarity) of all pairs that reach the threshold, in pieces.

        A piece holds all pairs of some consecutive texts of ``others``. Its memory is bounded: by 2**21 shared shingles
        or, where one text shares more, by the rows of the index.

        Args:
            others: at most 16,384 rows.
        """
        hashes, row, sizes = _rarest(others, 0, len(others), self.frequency, self.threshold)
        likely = np.flatnonzero(self.frequency[slots(hashes, len(self.frequency))])
        # Sorted hashes read the memory-mapped index sequentially.
        likely = likely[np.argsort(hashes[likely])]
        known, place = self.index.located(hashes[likely])
        row = row[likely[known]]
        order = np.argsort(row, kind="stable")
        row, place = row[order], place[order]
        hits = np.bincount(row, self.index.counts(place), minlength=len(others)).astype(np.int64)
        for start, stop in _texts_within(others.owner, hits, hash_index.HITS):
            chosen = slice(*np.searchsorted(row, [start, stop]))
            x, y = self._sharing_enough(row[chosen], place[chosen], hits, sizes)
            x, y = self._candidates(others, sizes, x, y)
            similarity = jaccard(others, self.rows, x, y)
            found = similarity >= self.threshold
            yield x[found], y[found], similarity[found]

    def _sharing_enough(
        self, row: np.ndarray, place: np.ndarray, hits: np.ndarray, sizes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (row, row of the index) of all pairs that share as many keys as similar rows of their sizes must.

        Args:
            row: the row of each key, ascending.
            place: the number of each key in the index.
            hits: how many rows of the index have each of its keys, in all, for every row.
            sizes: the distinct shingles of every row.
        """
        # Keys that very many rows share produce so many hits that sorting them would take most of the search.
        common = hits[row] > TABLE_HITS + len(self.rows) // TABLE_ROWS_PER_HIT
        found = [self._by_sorting(row[~common], place[~common], sizes)]
        found.extend(self._by_table(row[common], place[common], sizes))
        x, y = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(x, kind="stable")
        return x[order], y[order]

    def _by_table(
        self, row: np.ndarray, place: np.ndarray, sizes: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the same for each row, in time that grows with the rows of the index as well."""
        rows, starts = np.unique(row, return_index=True)
        keys = np.split(place, starts)[1:]
        last, least = -1, np.zeros(0, np.int64)
        every_size = np.arange(self.sizes.max(initial=0) + 1)
        # By size, so that what each row of the index must share is looked up once for all rows of a size.
        for at in np.argsort(sizes[rows], kind="stable").tolist():
            if (size := int(sizes[rows[at]])) != last:
                last, least = size, self._least_shared(np.full(len(every_size), size), every_size)[self.sizes]
            other = np.flatnonzero(self._shared_with_all(keys[at]) >= least)
            yield np.full(len(other), rows[at]), other

    def _by_sorting(self, row: np.ndarray, place: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the same of rows with few hits, in time and memory that grow with the hits alone."""
        count, counts = max(1, len(self.rows)), self.index.counts(place)
        pairs = (np.repeat(row[chunk], counts[chunk]) * count + held for chunk, held in self.index.owners_of(place))
        found, shared = np.unique(np.concatenate([np.zeros(0, np.int64), *pairs]), return_counts=True)
        x, y = found // count, found % count
        enough = shared >= self._least_shared(sizes[x], self.sizes[y])
        return x[enough], y[enough]

    def _shared_with_all(self, place: np.ndarray) -> np.ndarray:
        """Return how many of some keys each row of the index has, int64 [rows of the index]."""
        shared = np.zeros(len(self.rows), np.int64)
        for start, stop in ranges_within(np.cumsum(self.index.counts(place)), hash_index.HITS):
            # Slices of so long lists are copied several times faster than they are gathered by index.
            few = place[start:stop]
            spans = zip(self.index.starts[few].tolist(), self.index.starts[few + 1].tolist(), strict=True)
            shared += np.bincount(
                np.concatenate([self.index.owners[slice(*span)] for span in spans]), None, len(shared)
            )
        return shared

    def _least_shared(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return how many keys two similar rows of ``one`` and ``other`` shingles share at least, int64."""
        # A shared shingle outside the prefixes is among the last ceil(t * size) - 1 shingles of one of the rows, which
        # bounds their number. Similarity t needs an overlap of at least t / (1 + t) * (A + B) in all.
        beyond = np.maximum(_ceiling(self.threshold * one), _ceiling(self.threshold * other)) - 1
        least = _ceiling(self.threshold / (1 + self.threshold) * (one + other)) - beyond
        # Jaccard similarity is at most the ratio of the sizes: the intersection has at most as many members as the
        # smaller set, the union at least as many as the larger.
        alike = np.minimum(one, other) >= self.threshold * np.maximum(one, other) - ROUNDING_TOLERANCE
        return np.where(alike, least, NEVER)

    def _candidates(
        self, others: ShingleRows, sizes: np.ndarray, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return those of the pairs ``x``, ``y`` that may reach the threshold, by their bitmaps."""
        present, place = np.unique(x, return_inverse=True)
        maps = bitmaps(ShingleRows(present, *hashes_of_rows(others.hashes, others.offsets, present)))
        similar = np.ones(len(x), bool)
        for start in range(0, len(x), BITMAP_PAIRS):
            few = slice(start, start + BITMAP_PAIRS)
            total = sizes[x[few]] + self.sizes[y[few]]
            similar[few] = may_be_similar(maps[place[few]], self.maps[y[few]], total, self.threshold)
        return x[similar], y[similar]


def _texts_within(owner: np.ndarray, hits: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows (start, stop) of whole texts with at most ``most`` hits together, or of one text.

    Args:
        owner: the text of each row, ascending.
        hits: the hits of each row.
        most: the largest sum of a range.
    """
    lasts = np.append(np.flatnonzero(np.diff(owner)), len(owner) - 1) if len(owner) else np.zeros(0, np.int64)
    for first, stop in ranges_within(np.cumsum(hits)[lasts], most):
        yield int(lasts[first - 1]) + 1 if first else 0, int(lasts[stop - 1]) + 1


def _ceiling(values: np.ndarray) -> np.ndarray:
    return np.ceil(values - ROUNDING_TOLERANCE).astype(np.int64)


def _rarest(
    rows: ShingleRows, start: int, stop: int, frequency: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the prefix of each row in a range: enough of its rarest shingles that any similar row has one of them.

    Equally frequent shingles are ordered by hash, so the order is the same for all rows.

    Returns:
        The hashes, the number of the row within the range (ascending), and the distinct shingles of each row, int64.
    """
    taken, row = distinct_shingles(rows, start, stop)
    sizes = np.bincount(row, minlength=stop - start)
    starts = np.cumsum(sizes) - sizes
    # Row, frequency and position in one integer: sorting integers is much faster than sorting by two columns.
    order = np.sort((row << 8 | frequency[slots(taken, len(frequency))]) << PLACE_BITS | np.arange(len(row)))
    # The prefix has size - ceil(t * size) + 1 shingles: a row without any of them shares fewer than t * size.
    chosen = np.arange(len(row)) - starts[row] < (sizes - _ceiling(sizes * threshold) + 1)[row]
    return taken[order[chosen] & ((1 << PLACE_BITS) - 1)], row[chosen], sizes


def _frequency(hashes: np.ndarray) -> np.ndarray:
    table = np.zeros(min(max(FEWEST_FLAGS, 1 << (4 * len(hashes)).bit_length()), MOST_FLAGS), np.uint8)
    if len(hashes):
        used = np.sort(slots(hashes, len(table)).astype(np.uint32))
        starts = np.flatnonzero(np.diff(used, prepend=used[0] + np.uint32(1)))
        table[used[starts]] = _rarity(np.diff(starts, append=len(used)))
    return table


def _rarity(counts: np.ndarray) -> np.ndarray:
    """Return frequencies as bytes that ascend with them, exact where they are low, uint8."""
    # Of millions of short texts every shingle is frequent: a byte that stops at 255 would make them all equally rare.
    octaves = np.log2(np.maximum(counts, EXACT_FREQUENCY) / EXACT_FREQUENCY)
    coded = np.minimum(counts, EXACT_FREQUENCY) + (STEPS_PER_OCTAVE * octaves).astype(np.int64)
    found: np.ndarray = np.minimum(coded, 255).astype(np.uint8)
    return found


def _blocks(rows: ShingleRows) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows (start, stop exclusive) of about a million shingles."""
    start = 0
    while start < len(rows):
        stop = max(start + 1, int(np.searchsorted(rows.offsets, rows.offsets[start] + BLOCK_SHINGLES)) - 1)
        stop = min(stop, start + OVERLAP_BLOCK_ROWS, len(rows))
        yield start, stop
        start = stop


def distinct_shingles(rows: ShingleRows, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct shingles of a range of at most 16,384 rows, and the number of their row within it, int64.

    Both ascend. Only the upper 50 bits of a hash count, as in the exact comparison.
    """
    offsets = rows.offsets[start : stop + 1]
    keys = np.repeat(np.arange(stop - start, dtype=np.uint64) << HASH_BITS, np.diff(offsets))
    keys |= rows.hashes[offsets[0] : offsets[-1]] >> ROW_BITS
    keys.sort()
    new = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    keys = keys[new]
    return keys << ROW_BITS, (keys >> HASH_BITS).astype(np.int64)
