"""Near-duplicates as other tools find them: what near_dedupe.py compares ours with, each used as its README shows.

All get the texts in order and tell which of them go. Unless said otherwise they are given the same shingles as ours
uses, as strings: runs of 5 words (characters of Chinese, Japanese and Korean are words), of short texts runs of 5
characters.
"""

from collections.abc import Iterable, Iterator

from corpus import SINGLE

THRESHOLD, NUM_PERM, NGRAM, SHORT_WORDS = 0.8, 128, 5, 20


def shingles(text: str) -> list[str]:
    """Return the distinct shingles of a text in their order."""
    text = text.lower()
    words = (text if text.isascii() else SINGLE.sub(r" \1 ", text)).split()
    if len(words) >= SHORT_WORDS:
        return list(dict.fromkeys(map(" ".join, zip(*(words[start:] for start in range(NGRAM)), strict=False))))
    line = " ".join(text.split())
    return list(dict.fromkeys(line[start : start + NGRAM] for start in range(max(1, len(line) - NGRAM + 1))))


def with_datasketch(texts: Iterable[str]) -> Iterator[bool]:
    """Tell for each text whether it goes: MinHash of 128 permutations, LSH at 0.8."""
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=NUM_PERM)
    for number, text in enumerate(texts):
        sketch = MinHash(num_perm=NUM_PERM)
        sketch.update_batch([shingle.encode() for shingle in shingles(text)])
        found = bool(lsh.query(sketch))
        if not found:
            lsh.insert(number, sketch)
        yield found


def with_rensa(texts: Iterable[str]) -> list[bool]:
    """Tell for each text whether it goes: R-MinHash of 128 permutations, LSH at 0.8."""
    return _rensa(map(shingles, texts))


def with_rensa_words(texts: Iterable[str]) -> list[bool]:
    """Tell for each text whether it goes, by single words as in rensa's README."""
    return _rensa(text.split() for text in texts)


def _rensa(tokens: Iterable[list[str]]) -> list[bool]:
    from rensa import RMinHashDeduplicator

    deduplicator = RMinHashDeduplicator(threshold=THRESHOLD, num_perm=NUM_PERM, use_lsh=True)
    pairs = ((str(number), found) for number, found in enumerate(tokens))
    return [not kept for kept in deduplicator.add_pairs(pairs)]


# What each needs to be importable, and how it is called.
PEERS = {
    "datasketch, 128 permutations": (("datasketch", "scipy"), with_datasketch),
    "rensa, 5-grams": (("rensa",), with_rensa),
    "rensa, words as in its README": (("rensa",), with_rensa_words),
}
