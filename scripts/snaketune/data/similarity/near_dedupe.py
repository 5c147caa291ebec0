"""Near duplicates: MinHash and LSH propose candidates, exact Jaccard similarity of their shingles decides.

Records are decided in order: each is kept unless a kept earlier record is similar enough, so a removed record is
similar to its representative itself, not through a chain. The search repeats until no similar pair is left. Records
that differ only in indentation are never near duplicates: in code and YAML it carries meaning. Signatures and shingles
are memory-mapped files, about 1.7 kB per record of 140 words; memory is about 40 bytes per record.
"""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np

from snaketune.core.errors import DataError
from snaketune.data.similarity.bitmaps import may_be_similar
from snaketune.data.similarity.minhash import SimilarityCriteria
from snaketune.data.similarity.shingles import ShingleRows, jaccard
from snaketune.data.similarity.sorted_keys import HALF, LOW, distinct, shared_keys

# Each member of a large bucket is compared with the bucket's first member and with this many following ones.
BUCKET_WINDOW = 8
BUFFERED_PAIRS = 1 << 22
ESTIMATED_PAIRS = 1 << 15
# Page faults on a memory-mapped file bring in about 64 kB per row, so pages are released after this many pairs.
COMPARED_PAIRS = 1 << 10
# The estimate for a pair at the threshold is this many standard deviations too low once in about 150,000 pairs.
DEVIATIONS = 4.5


@dataclass(frozen=True, slots=True)
class Duplicates:
    """The representative of each record (itself if kept) and their similarity.

    Attributes:
        representative: int64 [records].
        similarity: float64 [records], 1 for a kept record.
        verified: number of pairs that were compared exactly.
    """

    representative: np.ndarray
    similarity: np.ndarray
    verified: int


def near_duplicates(store: "Store", records: int) -> Duplicates:
    """Return the representative of each of the ``records`` records whose sketches are in ``store``."""
    clusters = Clusters(records)
    _search(store, clusters, store.criteria.threshold)
    return Duplicates(clusters.representative, clusters.similarity, store.verified)


class Store:
    """The sketches and shingles of all records, memory-mapped.

    Args:
        folder: an empty folder for files of this object.
        parts: sketches of consecutive ranges of records.
        criteria: what counts as similar.
        keep: whether to keep the parts; otherwise each is deleted once it is appended to the joined file.

    Raises:
        DataError: if there are more than 2**32 rows of shingles.
    """

    def __init__(self, folder: Path, parts: Sequence[Path], criteria: SimilarityCriteria, keep: bool = False):
        self.criteria = criteria
        self.verified = 0
        self.owner, lengths = (
            np.concatenate([np.load(part.with_suffix(f".{name}.npy")) for part in parts])
            for name in ("owners", "lengths")
        )
        if len(lengths) >= 1 << 32:
            raise DataError("dedupe.near: there are more than 2**32 records: set it to false or split the sources.")
        self._sizes, offsets = lengths, np.concatenate([[0], np.cumsum(lengths)])
        self.rows = ShingleRows(self.owner, _joined(folder, parts, "shingles", keep), offsets)
        self._sketches = _joined(folder, parts, "sketches", keep)
        self._bitmaps = _joined(folder, parts, "bitmaps", keep)
        self._wholes = _joined(folder, parts, "wholes", keep)
        self._keys = [np.load(part.with_suffix(".keys.npy"), mmap_mode="r") for part in parts]
        self._folder = folder
        for band in range(self.bands):
            np.save(folder / f"bucket{band}.npy", shared_keys(self._band(band)))

    def _similarity(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the exact similarity of pairs of rows, releasing the memory-mapped pages as it goes."""
        found = np.empty(len(x))
        for start in range(0, len(x), COMPARED_PAIRS):
            some = slice(start, start + COMPARED_PAIRS)
            found[some] = jaccard(self.rows, self.rows, x[some], y[some])
            _forget(self.rows.hashes)
        return found

    @property
    def bands(self) -> int:
        """The number of bands."""
        return self.criteria.banding[0]

    def _band(self, band: int) -> np.ndarray:
        try:
            return np.concatenate([part[band] for part in self._keys])
        finally:
            _forget(*self._keys)

    def candidates(self, stays: np.ndarray, changed: np.ndarray) -> Iterator[np.ndarray]:
        """Yield candidate pairs: rows of kept records that share a bucket in which some record changed.

        Args:
            stays: bool [records]; updates between two batches of pairs take effect at once.
            changed: bool [records].

        Yields:
            Distinct pairs, uint64, lower row << 32 | higher row.
        """
        waiting: list[np.ndarray] = []
        for band in range(self.bands):
            entries = np.load(self._folder / f"bucket{band}.npy", mmap_mode="r")
            entries = _stirred(entries, self.owner, stays, changed)
            for pairs in _pairs(entries, self._band((band + 1) % self.bands)):
                waiting.append(pairs)
                if sum(map(len, waiting)) >= BUFFERED_PAIRS:
                    yield distinct(np.concatenate(waiting))
                    waiting = []
        yield distinct(np.concatenate([np.zeros(0, np.uint64), *waiting]))

    def similar(self, pairs: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the similar pairs of records, x < y, and their exact similarity."""
        x, y = (pairs >> HALF).astype(np.int64), (pairs & LOW).astype(np.int64)
        promising = self._promising(x, y, threshold)
        x, y = x[promising], y[promising]
        similarity = self._similarity(x, y)
        self.verified += len(x)
        found = (similarity >= threshold) & (self.owner[x] != self.owner[y])
        # Equal words (first column) with different indentation (second column): no duplicates.
        one, other = self._wholes[x], self._wholes[y]
        found &= (one[:, 0] != other[:, 0]) | (one[:, 1] == other[:, 1])
        return self.owner[x[found]], self.owner[y[found]], similarity[found]

    def _promising(self, x: np.ndarray, y: np.ndarray, threshold: float) -> np.ndarray:
        """Return the positions of the pairs that neither signatures nor bitmaps rule out."""
        # The number of agreeing values of two signatures is binomial with mean count * similarity. A pair far enough
        # below the mean at the threshold is rejected by its 125 bytes, without reading its shingles.
        count = self._sketches.shape[1]
        least = count * (threshold - DEVIATIONS * sqrt(threshold * (1 - threshold) / count))
        found = [np.zeros(0, np.int64)]
        for start in range(0, len(x), ESTIMATED_PAIRS):
            one, other = x[start : start + ESTIMATED_PAIRS], y[start : start + ESTIMATED_PAIRS]
            likely = np.flatnonzero((self._sketches[one] == self._sketches[other]).sum(axis=1) >= least)
            one, other = one[likely], other[likely]
            sizes = self._sizes[one] + self._sizes[other]
            found.append(start + likely[may_be_similar(self._bitmaps[one], self._bitmaps[other], sizes, threshold)])
        _forget(self._sketches, self._bitmaps)
        return np.concatenate(found)


def _joined(folder: Path, parts: Sequence[Path], name: str, keep: bool) -> np.ndarray:
    """Append the arrays of all parts to one file, deleting each unless ``keep``, and return it memory-mapped."""
    if len(parts) == 1:
        found: np.ndarray = np.load(parts[0].with_suffix(f".{name}.npy"), mmap_mode="r")
        return found
    target = folder / name
    with open(target, "wb") as file:
        for part in parts:
            source = part.with_suffix(f".{name}.npy")
            array = np.load(source, mmap_mode="r")
            array.tofile(file)
            _forget(array)
            if not keep:
                source.unlink()
    if not target.stat().st_size:  # an empty file cannot be memory-mapped
        return np.zeros((0, *array.shape[1:]), array.dtype)
    return np.memmap(target, array.dtype, "r").reshape(-1, *array.shape[1:])


def _forget(*arrays: np.ndarray) -> None:
    """Release the pages of memory-mapped files; they stay in the page cache."""
    for array in (array for array in arrays if isinstance(array, np.memmap)):
        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def _stirred(entries: np.ndarray, owner: np.ndarray, stays: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Return the entries of kept records in buckets with at least one changed record."""
    if not len(entries):
        return entries
    records = owner[(entries & LOW).astype(np.int64)]
    starts = _bucket_starts(entries)
    touched = np.logical_or.reduceat(changed[records], starts)
    found: np.ndarray = entries[np.repeat(touched, np.diff(starts, append=len(entries))) & stays[records]]
    return found


def _bucket_starts(entries: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.concatenate([[True], entries[1:] >> HALF != entries[:-1] >> HALF]))


def _pairs(entries: np.ndarray, next_band: np.ndarray) -> Iterator[np.ndarray]:
    """Yield pairs of rows of the same bucket: all pairs of small buckets, a linear number of those of large ones.

    In a large bucket, rows are paired with its first row and with their neighbours in the order of the next band.
    """
    if not len(entries):
        return
    starts = _bucket_starts(entries)
    sizes = np.diff(starts, append=len(entries))
    bucket, row = np.repeat(np.arange(len(starts)), sizes), entries & LOW
    # A bucket of n rows has n²/2 pairs: boilerplate shared by 100,000 records would take forever. Similar records that
    # are not neighbours here meet in another band or, through a representative, in a later round.
    large = np.flatnonzero(np.repeat(sizes > BUCKET_WINDOW + 1, sizes))
    yield row[np.repeat(starts, sizes)[large]] << HALF | row[large]
    row[large] = row[large][np.lexsort((row[large], next_band[row[large].astype(np.int64)], bucket[large]))]
    for distance in range(1, BUCKET_WINDOW + 1):
        same = bucket[distance:] == bucket[:-distance]
        x, y = row[:-distance][same], row[distance:][same]
        yield np.minimum(x, y) << HALF | np.maximum(x, y)


class Clusters:
    """The records kept, given the similar pairs known so far."""

    def __init__(self, records: int):
        self.representative = np.arange(records)
        self.similarity = np.ones(records)
        self.stays = np.ones(records, bool)
        self._pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def learn(self, x: np.ndarray, y: np.ndarray, similarity: np.ndarray) -> None:
        """Add similar pairs (x < y) and decide again from all of them, records in order."""
        if not len(x):
            return
        self._pairs.append((x, y, similarity))
        x, y, similarity = (np.concatenate(column) for column in zip(*self._pairs, strict=True))
        order = np.lexsort((-similarity, x, y))
        self._pairs = [(x[order], y[order], similarity[order])]
        self.representative[:] = np.arange(len(self.representative))
        self.similarity[:] = 1
        self.stays[:] = True
        for start in range(0, len(order), 1 << 20):
            self._decide(*(column[start : start + (1 << 20)] for column in self._pairs[0]))

    def _decide(self, x: np.ndarray, y: np.ndarray, similarity: np.ndarray) -> None:
        stays, representative = self.stays, self.representative
        for earlier, later, value in zip(x.tolist(), y.tolist(), similarity.tolist(), strict=True):
            if stays[earlier] and stays[later]:
                stays[later] = False
                representative[later] = earlier
                self.similarity[later] = value


def _search(store: Store, clusters: Clusters, threshold: float) -> None:
    """Search for similar pairs among the kept records until none is left.

    Later rounds search only changed buckets; a record whose representative was removed is restored. The loop ends
    because every round that changes anything has found a new pair.
    """
    changed = np.ones(len(clusters.stays), bool)
    while changed.any():
        seen, changed = changed, np.zeros_like(changed)
        for pairs in store.candidates(clusters.stays, seen):
            before = clusters.stays.copy()
            clusters.learn(*store.similar(pairs, threshold))
            changed |= before != clusters.stays
