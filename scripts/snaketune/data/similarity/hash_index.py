"""An inverted index: which texts contain a hash."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snaketune.data.similarity.shingles import hashes_of_rows

SMALL_BYTES = 1 << 12
FEWEST_FLAGS, MOST_FLAGS = 1 << 16, 1 << 27
# Hits expanded at once: a shingle that occurs in very many texts then costs time, not memory.
HITS = 1 << 21


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
            # A text that repeats a hash is listed once, or it would be counted twice among the shared ones.
            distinct = np.concatenate([[True], ~same])
            hashes, owners = hashes[distinct], owners[distinct]
        keys, starts = np.unique(hashes, return_index=True)
        # At least sixteen slots per key: an absent hash then passes about once in sixteen times.
        flags = np.zeros(min(max(FEWEST_FLAGS, 1 << (16 * len(keys)).bit_length()), MOST_FLAGS) if flagged else 0, bool)
        if flagged:
            flags[slots(keys, len(flags))] = True
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
        found: np.ndarray = self.flags[slots(hashes, len(self.flags))]
        return found

    def located(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions in ``hashes`` of those that some text contains, and the number of the key of each."""
        if not len(self.keys):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        likely = np.flatnonzero(self.holds(hashes)) if len(self.flags) else np.arange(len(hashes))
        place = np.searchsorted(self.keys, hashes[likely])
        place[place == len(self.keys)] = 0
        known = self.keys[place] == hashes[likely]
        return likely[known], place[known]

    def counts(self, place: np.ndarray) -> np.ndarray:
        """Return how many texts contain each key, given by number."""
        found: np.ndarray = self.starts[place + 1] - self.starts[place]
        return found

    def count(self, hashes: np.ndarray) -> int:
        """Return how many texts contain each of the hashes, in all."""
        return int(self.counts(self.located(hashes)[1]).sum())

    def owners_of(self, place: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the texts that contain each of some keys, int64, for one range of the keys after the other.

        A range has at most ``HITS`` texts, or is one key.
        """
        ends = np.cumsum(self.counts(place))
        for start, stop in ranges_within(ends, HITS):
            owners, _ = hashes_of_rows(self.owners, self.starts, place[start:stop])
            yield slice(start, stop), owners.astype(np.int64)

    def find(self, hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (positions in ``hashes``, texts that contain the hash at that position), int64, in chunks."""
        likely, place = self.located(hashes)
        counts = self.counts(place)
        for chunk, owners in self.owners_of(place):
            yield np.repeat(likely[chunk], counts[chunk]), owners


def ranges_within(ends: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges (start, stop) of consecutive items of at most ``most`` together, or of one larger item.

    Args:
        ends: the cumulative sum of the items' sizes.
        most: the largest sum of a range.
    """
    start = 0
    while start < len(ends):
        limit = most + (ends[start - 1] if start else 0)
        stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        yield start, stop
        start = stop


def mapped(path: Path) -> np.ndarray:
    """Return the array in a file, memory-mapped unless it is small."""
    return np.asarray(np.load(path, mmap_mode="r" if path.stat().st_size > SMALL_BYTES else None))


def slots(hashes: np.ndarray, count: int) -> np.ndarray:
    """Return the slot of each hash in a table of ``count`` entries, a power of two: its upper bits."""
    # 2**k has bit_length k + 1.
    return hashes >> np.uint64(65 - count.bit_length())
