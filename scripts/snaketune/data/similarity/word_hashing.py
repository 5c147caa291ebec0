"""Hashes of the words of texts and of runs of words, computed for a whole batch at once, without an object per word.

A character of a script written without spaces, or of hangul, is a word by itself: otherwise one changed character in a
Chinese sentence would change every run. Hashes depend on the text alone: not on the batch, the process or Python's
hash seed.

White space separates words and is otherwise ignored. If indentation counts, leading white space belongs to the first
word of its line, since it carries meaning in Python and YAML. Line breaks, blank lines, and white space within and at
the end of lines never count.
"""

import functools
import unicodedata
from collections.abc import Sequence

import numpy as np

LETTER, WORD_BREAK, SINGLE = 0, 1, 2
LINE_END_BYTE = ord("\n")
# Written out rather than derived from unicodedata, so that these classes do not change with the version of Python.
_SPACES = (
    *((9, 13), (28, 32), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)),
)
_PUNCTUATION = (
    *((33, 47), (58, 64), (91, 96), (123, 126), (0xA1, 0xA9), (0xAB, 0xB1), (0xB4, 0xB8), (0xBB, 0xBB)),
    *((0xBF, 0xBF), (0x2010, 0x2027), (0x2030, 0x205E), (0x3001, 0x3004), (0x3008, 0x3020)),
)
# Thai, Lao, Burmese, Khmer; kana and bopomofo; ideographs and their extensions; hangul.
_SINGLES = (
    *((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x312F), (0x31F0, 0x31FF)),
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
)

# 2^64 divided by the golden ratio, as in SplitMix64: an odd number with well-mixed bits, invertible modulo 2^64.
_BASE = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
_CACHED_POWERS = 1 << 20


def mixed(values: np.ndarray) -> np.ndarray:
    """Return ``values`` (uint64) mixed in place by a bijection, the finaliser of MurmurHash3."""
    # Polynomial hashes are weak in their low bits (the base is odd); mixing spreads every input bit over all others.
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values ^= values >> np.uint64(33)
        values *= np.uint64(factor)
    values ^= values >> np.uint64(33)
    return values


@functools.cache
def constants(count: int, seed: int) -> np.ndarray:
    """Return ``count`` fixed odd uint64 numbers by SplitMix64, which unlike numpy's generators never change."""
    start = np.full(count, (seed * _BASE + 1) & MASK, np.uint64)
    return mixed(start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_BASE)) | np.uint64(1)


@functools.cache
def kinds_of_characters(punctuation_breaks: bool = False) -> np.ndarray:
    """Return the kind of each code point, uint8: part of a word, separator, or a word by itself."""
    table = np.zeros(0x110000, np.uint8)
    for ranges, kind in (
        (_SPACES, WORD_BREAK),
        (_SINGLES, SINGLE),
        (_PUNCTUATION if punctuation_breaks else (), WORD_BREAK),
    ):
        for first, last in ranges:
            table[first : last + 1] = kind
    return table


def folded(text: str) -> str:
    """Return ``text`` in Unicode NFKC and lower case."""
    # NFKC leaves ASCII unchanged, and isascii() merely reads a flag of the string.
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()


def word_hashes(texts: Sequence[str], punctuation_breaks: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of the words of all texts, uint64, and where each text's words start, int64 [texts + 1].

    A word's hash is a difference of two prefix sums of a polynomial in its characters (Rabin-Karp), so that no word
    becomes a Python object.
    """
    codes, starts_of_texts = code_points(texts)
    starts, ends = _boundaries(kinds_of_characters(punctuation_breaks)[codes])
    sums = _prefix_sums(codes, 1)
    return mixed(_differences(sums, starts, ends)), np.searchsorted(starts, starts_of_texts)


def indented_words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the same with each line's indentation as part of its first word, and hashes of the whole texts.

    Returns:
        The hashes of the words, uint64; where each text's words start, int64 [texts + 1]; and for each text the hash
        of its words in order, without and with indentation, uint64 [texts, 2].
    """
    codes, starts_of_texts = code_points(texts)
    kinds = kinds_of_characters()[codes]
    starts, ends = _boundaries(kinds)
    sums, begins = _prefix_sums(codes, 1), _with_indentation(codes, kinds, starts)
    # Without indented lines, which is usual for prose, both hashes are the same array and are computed once.
    bare = hashes = mixed(_differences(sums, starts, ends))
    if begins is not starts:
        hashes = mixed(_differences(sums, begins, ends))
    offsets = np.searchsorted(starts, starts_of_texts)
    wholes = [_differences(_prefix_sums(part, 0), offsets[:-1], offsets[1:]) for part in (bare, hashes)]
    return hashes, offsets, np.stack(wholes, axis=1)


def _prefix_sums(values: np.ndarray, shift: int) -> np.ndarray:
    """Return the prefix sums, uint64 [values + 1], of a polynomial whose coefficients are ``values`` + ``shift``."""
    sums = np.zeros(len(values) + 1, np.uint64)
    terms = values.astype(np.uint64)
    terms += np.uint64(shift)
    terms *= _powers(len(values))[0][: len(values)]
    np.cumsum(terms, out=sums[1:])
    return sums


def _differences(sums: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the polynomials of ranges, independent of their positions."""
    # The sum of a range has the factor base**start; multiplying by its inverse modulo 2**64 removes the position.
    found: np.ndarray = (sums[ends] - sums[starts]) * _powers(len(sums))[1][starts]
    return found


def _with_indentation(codes: np.ndarray, kinds: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return ``starts`` of words, with the first word of an indented line starting at its line."""
    lines = np.append(0, np.flatnonzero(codes == LINE_END_BYTE) + 1)
    lines, ends = lines[:-1], lines[1:]
    indented = kinds[lines] == WORD_BREAK
    lines, ends = lines[indented], ends[indented]
    place = np.searchsorted(starts, lines)
    has_word = place < np.searchsorted(starts, ends)
    if not has_word.any():
        return starts
    begins = starts.copy()
    begins[place[has_word]] = lines[has_word]
    return begins


def code_points(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the code points of all texts, each followed by a line end, and where each text starts, [texts + 1]."""
    # The line end after each text is a separator, so that no word spans two texts of the batch.
    joined = "\n".join([*texts, ""])
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1, out=starts[1:])
    # ASCII needs one byte per character instead of four: the following passes over the array are limited by memory.
    if joined.isascii():
        return np.frombuffer(joined.encode("ascii"), np.uint8), starts
    return np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32), starts


def _boundaries(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where words start and where they end (exclusive)."""
    # ``inside`` is shifted by one: ``before`` and ``here`` are the same array seen from neighbouring characters.
    inside = np.zeros(len(kinds) + 1, bool)
    np.not_equal(kinds, WORD_BREAK, out=inside[1:])
    before, here = inside[:-1], inside[1:]
    # A word starts where a word character follows a separator. A character that is a word by itself also starts one,
    # and so does whatever follows it.
    start = here & ~before
    if (single := kinds == SINGLE).any():
        start |= single
        start[1:] |= single[:-1] & here[1:]
    return np.flatnonzero(start), np.flatnonzero(before & (~here | start))


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    return _cached_powers(_CACHED_POWERS) if count <= _CACHED_POWERS else _cached_powers.__wrapped__(count)


@functools.cache
def _cached_powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the powers of the polynomial's base modulo 2**64 and their inverses, which exist since the base is odd."""
    tables = []
    for factor in (_BASE, pow(_BASE, -1, 1 << 64)):
        table = np.full(count, factor, np.uint64)
        table[0] = 1
        tables.append(np.multiply.accumulate(table))
    return tables[0], tables[1]


def windows(hashes: np.ndarray, offsets: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of all runs of ``size`` items within each text, and where each text's runs start.

    A text with fewer items has one run, all of them. ``seed`` keeps runs of different kinds from being equal.
    """
    lengths = np.diff(offsets)
    padded = np.maximum(lengths, size)
    places = np.zeros(len(padded) + 1, np.int64)
    np.cumsum(padded, out=places[1:])
    if (lengths < size).any():
        # Texts that are too short are padded with zeros to one run each, so that all texts are handled alike.
        spread = np.zeros(places[-1], np.uint64)
        spread[np.arange(len(hashes)) + np.repeat(places[:-1] - offsets[:-1], lengths)] = hashes
        hashes = spread
    count = max(0, len(hashes) - size + 1)
    factors = constants(size, seed)
    runs = hashes[:count] * factors[0]
    for step in range(1, size):
        runs += hashes[step : count + step] * factors[step]
    # Runs were hashed across text boundaries as well; those that begin in the last size - 1 items of a text go.
    within = np.ones(len(hashes), bool)
    for step in range(1, size):
        within[places[1:] - step] = False
    starts = np.zeros(len(padded) + 1, np.int64)
    np.cumsum(padded - size + 1, out=starts[1:])
    return mixed(runs[within[:count]]), starts
