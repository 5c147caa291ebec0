"""Bitmaps of shingles: 256 bytes that show most pairs of texts not to be similar enough, and never a pair that is."""

import numpy as np

from snaketune.data.similarity.shingles import Rows

# So many upper bits of a shingle's hash say which bit of its row's bitmap it sets.
BITS = 11
WORDS = (1 << BITS) // 64
BLOCK_ROWS = 1024
# Rounding must not exclude a pair that is just similar enough.
SLACK = 1e-9


def bitmaps(rows: Rows) -> np.ndarray:
    """Return for each row 2,048 bits, of which each shingle sets one, uint64 [rows, 32]."""
    found = np.empty((len(rows), WORDS), np.uint64)
    for start in range(0, len(rows), BLOCK_ROWS):
        offsets = rows.offsets[start : start + BLOCK_ROWS + 1]
        count = len(offsets) - 1
        place = np.repeat(np.arange(count, dtype=np.uint64) << np.uint64(BITS), np.diff(offsets))
        place |= rows.hashes[offsets[0] : offsets[-1]] >> np.uint64(64 - BITS)
        bits = np.zeros(count << BITS, bool)
        bits[place] = True
        found[start : start + count] = np.packbits(bits).view(np.uint64).reshape(count, WORDS)
    return found


def least_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return how many shingles at least are in one row of each pair only, given their bitmaps, int64 [pairs]."""
    found: np.ndarray = np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64)
    return found


def may_be_similar(one: np.ndarray, other: np.ndarray, sizes: np.ndarray, threshold: float) -> np.ndarray:
    """Tell of each pair whether its Jaccard similarity may reach ``threshold``, bool [pairs].

    Sets of A and B members that are similar by t have a symmetric difference of at most (1 - t) / (1 + t) times A + B,
    and the bits that differ are part of it.

    Args:
        one: bitmaps of the one rows.
        other: bitmaps of the other rows.
        sizes: A + B or more of each pair.
        threshold: t.
    """
    return least_difference(one, other) <= (1 - threshold) / (1 + threshold) * sizes + SLACK
