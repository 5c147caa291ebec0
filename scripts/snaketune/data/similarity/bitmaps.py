"""Bitmaps of shingles: a 256-byte filter that rejects most dissimilar pairs and never a similar one.

Comparing two bitmaps costs 32 XORs and popcounts, regardless of the length of the texts; only pairs that pass have
their shingles compared exactly.
"""

import numpy as np

from snaketune.data.similarity.shingles import ShingleRows

# The upper 11 bits of a shingle's hash select the bit that it sets in its row's bitmap.
BITS = 11
BITMAP_WORDS = (1 << BITS) // 64
BLOCK_ROWS = 1024
# Tolerance for rounding: a pair exactly at the threshold must pass.
ROUNDING_TOLERANCE = 1e-9


def bitmaps(rows: ShingleRows) -> np.ndarray:
    """Return a bitmap of 2,048 bits per row, in which each shingle sets one bit, uint64 [rows, 32]."""
    found = np.empty((len(rows), BITMAP_WORDS), np.uint64)
    for start in range(0, len(rows), BLOCK_ROWS):
        offsets = rows.offsets[start : start + BLOCK_ROWS + 1]
        count = len(offsets) - 1
        place = np.repeat(np.arange(count, dtype=np.uint64) << np.uint64(BITS), np.diff(offsets))
        place |= rows.hashes[offsets[0] : offsets[-1]] >> np.uint64(64 - BITS)
        # Blocks bound this array: one byte per bit, 2 MB for 1,024 rows.
        bits = np.zeros(count << BITS, bool)
        bits[place] = True
        found[start : start + count] = np.packbits(bits).view(np.uint64).reshape(count, BITMAP_WORDS)
    return found


def least_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return a lower bound on the size of each pair's symmetric difference, from their bitmaps, int64 [pairs]."""
    # Shingles that collide in a bit can only hide a difference, never invent one, so the bound is safe.
    found: np.ndarray = np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64)
    return found


def may_be_similar(one: np.ndarray, other: np.ndarray, sizes: np.ndarray, threshold: float) -> np.ndarray:
    """Return whether the Jaccard similarity of each pair can reach ``threshold``, bool [pairs].

    Two sets of A and B members with similarity t have a symmetric difference of at most (A + B) (1 - t) / (1 + t).

    Args:
        one: bitmaps of the first rows, uint64 [pairs, 32].
        other: bitmaps of the second rows, uint64 [pairs, 32].
        sizes: A + B of each pair, or an upper bound on it.
        threshold: t.
    """
    # With a union of U members the intersection has t U, so A + B = (1 + t) U; the symmetric difference is (1 - t) U.
    return least_difference(one, other) <= (1 - threshold) / (1 + threshold) * sizes + ROUNDING_TOLERANCE
