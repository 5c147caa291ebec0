"""Texts as sets of hashed shingles, computed for a whole batch at once, and their exact Jaccard similarity.

A shingle is a run of n words, see :mod:`snaketune.data.similarity.word_hashing`. Short texts are compared by runs of
five characters, since one changed word would change most of their few word shingles.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from snaketune.data.similarity.word_hashing import MASK, code_points, folded, indented_words, windows, word_hashes

CHARACTER_NGRAM = 5
# Texts with fewer words than this many times n are compared by characters.
SHORT_NGRAMS = 4
BATCH_TEXTS = 256
BATCH_CHARACTERS = 1 << 18
CHUNK_PAIRS = 4096
CHUNK_SHINGLES = 1 << 20
INDENTED = re.compile(r"(?:\A|\n)[^\S\n]")


@dataclass(frozen=True, slots=True)
class ShingleRows:
    """Shingles of texts, one or two rows per text.

    Attributes:
        owner: int64 [rows], ascending: the text of each row.
        hashes: uint64, the shingles of all rows; a row may contain a shingle more than once.
        offsets: int64 [rows + 1].
    """

    owner: np.ndarray
    hashes: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.owner)


def shingled(texts: Sequence[str], ngram: int, threshold: float) -> ShingleRows:
    """Return the shingles of ``texts``.

    A text of fewer than 4 * ``ngram`` words has a row of character shingles, a longer one a row of word shingles.
    Texts just above that length have both, so that two texts on either side of it can still be compared. Both rows are
    needed up to 1 / ``threshold`` times that length only: texts that differ more in length cannot be that similar.
    """
    texts = [folded(text) for text in texts]
    return _shingled(texts, *word_hashes(texts), ngram, threshold, _spaced)


def shingled_with_indentation(texts: Sequence[str], ngram: int, threshold: float) -> tuple[ShingleRows, np.ndarray]:
    """Return the same with indentation counted, and the hashes of whole texts from :func:`indented_words`."""
    texts = [folded(text) for text in texts]
    hashes, offsets, wholes = indented_words(texts)
    return _shingled(texts, hashes, offsets, ngram, threshold, _spaced_with_indentation), wholes


def _shingled(
    texts: Sequence[str],
    hashes: np.ndarray,
    offsets: np.ndarray,
    ngram: int,
    threshold: float,
    spaced: Callable[[str], str],
) -> ShingleRows:
    """Return word shingles of texts with the given words, and character shingles of short texts after ``spaced``."""
    # A text of w words has w - n + 1 shingles, and one changed word changes n of them: at 4 n words a single edit
    # leaves a similarity of about one half.
    short = SHORT_NGRAMS * ngram
    counts = np.diff(offsets)
    by_words = np.flatnonzero(counts >= short)
    # Jaccard similarity t bounds the ratio of sizes by t, so a text longer than short / t cannot match a short one.
    by_characters = np.flatnonzero(counts < short / threshold)
    rows = _taken(*windows(hashes, offsets, ngram, 1), by_words)
    if not len(by_characters):
        return rows
    codes, starts = code_points([spaced(texts[index]) for index in by_characters.tolist()])
    # The line ends that ``code_points`` puts between texts are no characters of the texts.
    inner = np.ones(len(codes), bool)
    inner[starts[1:] - 1] = False
    starts -= np.arange(len(starts))
    # The 1 keeps character 0 apart from the zeros that pad texts that are too short.
    runs = windows(codes[inner].astype(np.uint64) + np.uint64(1), starts, CHARACTER_NGRAM, 2)
    return _merged(rows, ShingleRows(by_characters, *runs))


def _spaced(text: str) -> str:
    """Return ``text`` with every run of white space replaced by one space, and trimmed."""
    return " ".join(text.split())


def _spaced_with_indentation(text: str) -> str:
    """Return the same with the indentation of each line kept, without line breaks."""
    if not INDENTED.search(text):
        return _spaced(text)
    lines = ((line, line.lstrip()) for line in text.split("\n"))
    return " ".join([line[: len(line) - len(words)] + _spaced(words) for line, words in lines if words])


def _taken(hashes: np.ndarray, offsets: np.ndarray, chosen: np.ndarray) -> ShingleRows:
    if len(chosen) == len(offsets) - 1:
        return ShingleRows(chosen, hashes, offsets)
    return ShingleRows(chosen, *hashes_of_rows(hashes, offsets, chosen))


def _merged(one: ShingleRows, other: ShingleRows) -> ShingleRows:
    """Return the rows of both in the order of their texts; for each text, those of ``one`` come first."""
    hashes = np.concatenate([one.hashes, other.hashes])
    offsets = np.concatenate([one.offsets, other.offsets[1:] + one.offsets[-1]])
    owner = np.concatenate([one.owner, other.owner])
    # A stable sort keeps each text's word row before its character row.
    order = np.argsort(owner, kind="stable")
    return ShingleRows(owner[order], *hashes_of_rows(hashes, offsets, order))


def taken(rows: ShingleRows, chosen: np.ndarray) -> ShingleRows:
    """Return some of the rows, given by index."""
    return ShingleRows(rows.owner[chosen], *hashes_of_rows(rows.hashes, rows.offsets, chosen))


def hashes_of_rows(hashes: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the concatenated hashes of the given rows and their offsets."""
    lengths = offsets[rows + 1] - offsets[rows]
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return hashes[np.arange(starts[-1]) + np.repeat(offsets[rows] - starts[:-1], lengths)], starts


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts in batches small enough for the CPU cache."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) == BATCH_TEXTS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def jaccard(left: ShingleRows, right: ShingleRows, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the exact Jaccard similarity of each pair of rows ``left[x]`` and ``right[y]``, float64 [pairs].

    Shingles count as sets. Only the upper 50 bits of a hash are compared: two different shingles collide once in about
    10**15 comparisons.
    """
    sizes = (left.offsets[x + 1] - left.offsets[x]) + (right.offsets[y + 1] - right.offsets[y])
    result = np.empty(len(x))
    for chunk in _chunks(sizes):
        result[chunk] = _jaccard(left, right, x[chunk], y[chunk])
    return result


def _chunks(sizes: np.ndarray) -> Iterator[slice]:
    """Yield slices of at most 4,096 pairs and about a million shingles, or one pair."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        limit = CHUNK_SHINGLES + (ends[start - 1] if start else 0)
        stop = min(start + CHUNK_PAIRS, max(start + 1, int(np.searchsorted(ends, limit))))
        yield slice(start, stop)
        start = stop


def _jaccard(left: ShingleRows, right: ShingleRows, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Count shared shingles by sorting keys of pair (13 bits), shingle (50 bits) and side (1 bit).

    The two keys of a shared shingle are neighbours after sorting and differ in the last bit only.
    """
    keys = []
    for side, (rows, chosen) in enumerate(((left, x), (right, y))):
        hashes, starts = hashes_of_rows(rows.hashes, rows.offsets, chosen)
        pairs = np.repeat(np.arange(len(x), dtype=np.uint64) << np.uint64(51), np.diff(starts))
        # 13 bits are enough for the at most 4,096 pairs of a chunk.
        keys.append(((hashes >> np.uint64(13)) & np.uint64(MASK - 1)) | pairs | np.uint64(side))
    key = np.concatenate(keys)
    key.sort()
    # Repeats of a shingle within one side are equal keys: dropping them makes multisets into sets.
    key = key[np.concatenate([[True], key[1:] != key[:-1]])]
    pair = (key >> np.uint64(51)).astype(np.int64)
    shared = np.bincount(pair[1:][(key[1:] ^ key[:-1]) == 1], minlength=len(x))
    return shared / (np.bincount(pair, minlength=len(x)) - shared)
