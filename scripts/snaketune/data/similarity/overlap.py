"""An inverted index of hashes, and an exact similarity search for all rows above a threshold built on it.

Unlike MinHash with LSH, prefix filtering misses no pair: it suits a small fixed set (the held-out records) searched by
many others, where one missed leak matters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snaketune.data.similarity.bitmaps import SLACK, bitmaps, may_be_similar
from snaketune.data.similarity.shingles import Rows, gathered, jaccard

SMALL_BYTES = 1 << 12
FEWEST_FLAGS, MOST_FLAGS = 1 << 16, 1 << 27
# Hits expanded at once: a shingle that occurs in very many texts then costs time, not memory.
HITS = 1 << 21
BLOCK_SHINGLES, BLOCK_ROWS = 1 << 20, 1 << 14
# 50 bits of a shingle's hash and 14 bits of its row's number within a block are packed into one sortable integer.
HASH_BITS, ROW_BITS = np.uint64(50), np.uint64(14)
PLACE_BITS = 24


@dataclass(frozen=True, slots=True)
class HashIndex:
    """The texts that contain each hash. A table of flags rejects most absent hashes without a binary search.

    Attributes:
        keys: uint64, the distinct hashes, sorted.
        starts: int64 [keys + 1], where the owners of each key start.
        owners: uint32, the texts that contain each key.
        flags: bool, for each value of a hash's upper bits whether some key has it.
    """

    keys: np.ndarray
    starts: np.ndarray
    owners: np.ndarray
    flags: np.ndarray

    @classmethod
    def build(cls, hashes: np.ndarray, owners: np.ndarray, flagged: bool = True) -> "HashIndex":
        """Index ``hashes``, uint64, with the texts ``owners`` that contain them (ascending), with or without flags."""
        order = np.argsort(hashes, kind="stable")
        hashes, owners = hashes[order], owners[order].astype(np.uint32)
        if len(hashes):
            same = (hashes[1:] == hashes[:-1]) & (owners[1:] == owners[:-1])
            distinct = np.concatenate([[True], ~same])
            hashes, owners = hashes[distinct], owners[distinct]
        keys, starts = np.unique(hashes, return_index=True)
        flags = np.zeros(min(max(FEWEST_FLAGS, 1 << (16 * len(keys)).bit_length()), MOST_FLAGS) if flagged else 0, bool)
        if flagged:
            flags[_slots(keys, len(flags))] = True
        return cls(keys, np.append(starts, len(hashes)), owners, flags)

    def save(self, path: Path) -> None:
        """Write the index to files named ``path``.*."""
        for name in self.__slots__:
            np.save(path.with_suffix(f".{name}.npy"), getattr(self, name))

    @classmethod
    def load(cls, path: Path) -> "HashIndex":
        """Return the memory-mapped index at ``path``."""
        return cls(*(mapped(path.with_suffix(f".{name}.npy")) for name in cls.__slots__))

    def holds(self, hashes: np.ndarray) -> np.ndarray:
        """Return whether some text may contain each hash, bool; about one in sixteen absent hashes passes."""
        found: np.ndarray = self.flags[_slots(hashes, len(self.flags))]
        return found

    def find(self, hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (positions in ``hashes``, texts that contain the hash at that position), int64, in chunks."""
        if not len(self.keys):
            return
        likely = np.flatnonzero(self.holds(hashes)) if len(self.flags) else np.arange(len(hashes))
        place = np.searchsorted(self.keys, hashes[likely])
        place[place == len(self.keys)] = 0
        known = self.keys[place] == hashes[likely]
        likely, place = likely[known], place[known]
        counts = self.starts[place + 1] - self.starts[place]
        ends = np.cumsum(counts)
        start = 0
        while start < len(likely):
            limit = HITS + (ends[start - 1] if start else 0)
            stop = max(start + 1, int(np.searchsorted(ends, limit)))
            chunk = slice(start, stop)
            owners, _ = gathered(self.owners, self.starts, place[chunk])
            yield np.repeat(likely[chunk], counts[chunk]), owners.astype(np.int64)
            start = stop


def mapped(path: Path) -> np.ndarray:
    """Return the array in a file, memory-mapped unless it is small."""
    return np.asarray(np.load(path, mmap_mode="r" if path.stat().st_size > SMALL_BYTES else None))


def _slots(hashes: np.ndarray, count: int) -> np.ndarray:
    # ``count`` is a power of two, 2**k with bit_length k + 1: the upper k bits of a hash are its slot.
    return hashes >> np.uint64(65 - count.bit_length())


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
        frequency: uint8, for each value of a hash's upper bits the number of shingles of the set with it, at most 255.
        index: the rarest shingles of each row.
        threshold: minimum similarity.
    """

    rows: Rows
    sizes: np.ndarray
    maps: np.ndarray
    frequency: np.ndarray
    index: HashIndex
    threshold: float

    @classmethod
    def build(cls, rows: Rows, threshold: float) -> "SimilarityIndex":
        """Index ``rows``."""
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
        for name in Rows.__slots__:
            np.save(path.with_suffix(f".row_{name}.npy"), getattr(self.rows, name))

    @classmethod
    def load(cls, path: Path, threshold: float) -> "SimilarityIndex":
        """Return the memory-mapped index at ``path``."""
        rows = Rows(*(mapped(path.with_suffix(f".row_{name}.npy")) for name in Rows.__slots__))
        sizes, maps, frequency = (mapped(path.with_suffix(f".{name}.npy")) for name in ("sizes", "maps", "frequency"))
        return cls(rows, sizes, maps, frequency, HashIndex.load(path), threshold)

    def similar(self, others: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (row of ``others``, row of the index, similarity) of all pairs that reach the threshold.

        ``others`` may have at most 16,384 rows.
        """
        x, y = self._candidates(others)
        similarity = jaccard(others, self.rows, x, y)
        found = similarity >= self.threshold
        return x[found], y[found], similarity[found]

    def _candidates(self, others: Rows) -> tuple[np.ndarray, np.ndarray]:
        hashes, row, sizes = _rarest(others, 0, len(others), self.frequency, self.threshold)
        likely = np.flatnonzero(self.frequency[_slots(hashes, len(self.frequency))])
        # Sorted hashes read the memory-mapped index sequentially.
        likely = likely[np.argsort(hashes[likely])]
        hashes, row = hashes[likely], row[likely]
        count = max(1, len(self.rows))
        hits = [row[place] * count + held for place, held in self.index.find(hashes)]
        pairs, shared = np.unique(np.concatenate([np.zeros(0, np.int64), *hits]), return_counts=True)
        x, y = pairs // count, pairs % count
        one, other = sizes[x], self.sizes[y]
        # A shared shingle outside the prefixes is among the last ceil(t * size) - 1 shingles of one of the rows, which
        # bounds their number. Similarity t needs an overlap of at least t / (1 + t) * (A + B) in all.
        beyond = np.maximum(_ceiling(self.threshold * one), _ceiling(self.threshold * other)) - 1
        enough = shared + beyond >= _ceiling(self.threshold / (1 + self.threshold) * (one + other))
        enough &= np.minimum(one, other) >= self.threshold * np.maximum(one, other) - SLACK
        x, y = x[enough], y[enough]
        present, place = np.unique(x, return_inverse=True)
        maps = bitmaps(Rows(present, *gathered(others.hashes, others.offsets, present)))
        enough = may_be_similar(maps[place], self.maps[y], sizes[x] + self.sizes[y], self.threshold)
        return x[enough], y[enough]


def _ceiling(values: np.ndarray) -> np.ndarray:
    return np.ceil(values - SLACK).astype(np.int64)


def _rarest(
    rows: Rows, start: int, stop: int, frequency: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the prefix of each row in a range: enough of its rarest shingles that any similar row has one of them.

    Equally frequent shingles are ordered by hash, so the order is the same for all rows.

    Returns:
        The hashes, the number of the row within the range (ascending), and the distinct shingles of each row, int64.
    """
    taken, row = distinct(rows, start, stop)
    sizes = np.bincount(row, minlength=stop - start)
    starts = np.cumsum(sizes) - sizes
    # Row, frequency and position in one integer: sorting integers is much faster than sorting by two columns.
    order = np.sort((row << 8 | frequency[_slots(taken, len(frequency))]) << PLACE_BITS | np.arange(len(row)))
    # The prefix has size - ceil(t * size) + 1 shingles: a row without any of them shares fewer than t * size.
    chosen = np.arange(len(row)) - starts[row] < (sizes - _ceiling(sizes * threshold) + 1)[row]
    return taken[order[chosen] & ((1 << PLACE_BITS) - 1)], row[chosen], sizes


def _frequency(hashes: np.ndarray) -> np.ndarray:
    table = np.zeros(min(max(FEWEST_FLAGS, 1 << (4 * len(hashes)).bit_length()), MOST_FLAGS), np.uint8)
    if len(hashes):
        slots = np.sort(_slots(hashes, len(table)).astype(np.uint32))
        starts = np.flatnonzero(np.diff(slots, prepend=slots[0] + np.uint32(1)))
        table[slots[starts]] = np.minimum(np.diff(starts, append=len(slots)), 255)
    return table


def _blocks(rows: Rows) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows (start, stop exclusive) of about a million shingles."""
    start = 0
    while start < len(rows):
        stop = max(start + 1, int(np.searchsorted(rows.offsets, rows.offsets[start] + BLOCK_SHINGLES)) - 1)
        stop = min(stop, start + BLOCK_ROWS, len(rows))
        yield start, stop
        start = stop


def distinct(rows: Rows, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
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
