"""What may differ between two answers that count as equal."""

import re
import string
import unicodedata
from collections.abc import Callable, Sequence

ARTICLES = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)


def without_punctuation(text: str) -> str:
    """Return ``text`` without ASCII punctuation and signs, and without punctuation of other scripts."""
    kept = (sign for sign in text if sign not in string.punctuation and unicodedata.category(sign)[0] != "P")
    return "".join(kept)


def without_articles(text: str) -> str:
    """Return ``text`` without English articles and with single spaces."""
    return " ".join(ARTICLES.sub(" ", text).split())


# In the order in which they are applied: an article is found before its neighbours are joined.
NORMALIZERS: dict[str, Callable[[str], str]] = {
    "unicode": lambda text: unicodedata.normalize("NFKC", text),
    "case": str.casefold,
    "punctuation": without_punctuation,
    "articles": without_articles,
    "whitespace": lambda text: " ".join(text.split()),
    "strip": str.strip,
}


def normalizer(names: Sequence[str]) -> Callable[[str], str]:
    """Return the function that applies the normalisers in ``names``, always in the same order.

    ``punctuation``, ``articles``, ``case`` and ``whitespace`` together are those of SQuAD (Rajpurkar et al. 2016).
    """
    chosen = [function for name, function in NORMALIZERS.items() if name in names]

    def normalize(text: str) -> str:
        for function in chosen:
            text = function(text)
        return text

    return normalize
