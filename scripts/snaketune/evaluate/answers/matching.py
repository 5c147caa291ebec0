"""When an answer counts as correct: normalisation of texts, and comparison of numbers.

Numbers are extracted as in lm-evaluation-harness for GSM8K: the one after the last marker (``#### 42``, its strict
match), or without a marker the last number (its flexible extraction). They are compared by value: 1,000.0 equals
$1000.
"""

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation

ARTICLES = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)

MARKER = re.compile(r"^[ \t]*(?:####|A:)(.*)$|\banswer is:?(.*)$", re.MULTILINE | re.IGNORECASE)
NUMBER = re.compile(r"(?<![\w.])-?(?:[$€£]-?)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
CURRENCY_SIGNS = "$€£,"


def numeric_match(answer: str, reference: str) -> bool | None:
    """Tell whether an answer ends in the number of the reference; None if the reference has no numeric answer.

    A reference has one when it marks it, or is nothing but a number.
    """
    wanted = reference_number(reference)
    return None if wanted is None else answer_number(answer) == wanted


def answer_number(text: str) -> Decimal | None:
    """Return the number that ``text`` gives as its answer, or None without any."""
    marked = _marked(text)
    return _last_number(text if marked is None else marked)


def reference_number(text: str) -> Decimal | None:
    """Return the number that ``text`` marks as its answer or consists of, or None."""
    marked = _marked(text)
    if marked is not None:
        return _last_number(marked)
    found = NUMBER.fullmatch(text.strip())
    return _value(found.group()) if found else None


def _marked(text: str) -> str | None:
    found = None
    for match in MARKER.finditer(text):
        found = match
    return None if found is None else found.group(1) if found.group(1) is not None else found.group(2)


def _last_number(text: str) -> Decimal | None:
    last = None
    for match in NUMBER.finditer(text):
        last = match
    return None if last is None else _value(last.group())


def _value(text: str) -> Decimal | None:
    for sign in CURRENCY_SIGNS:
        text = text.replace(sign, "")
    try:
        # Decimal, not float: 0.1 and 0.10 are equal and no digits are lost.
        return Decimal(text)
    except InvalidOperation:
        return None


def without_punctuation(text: str) -> str:
    """Return ``text`` without ASCII punctuation and signs, and without punctuation of other scripts."""
    # Unicode punctuation has a category that begins with P; ASCII signs such as + and $ have other categories.
    kept = (sign for sign in text if sign not in string.punctuation and unicodedata.category(sign)[0] != "P")
    return "".join(kept)


def without_articles(text: str) -> str:
    """Return ``text`` without English articles and with single spaces."""
    return " ".join(ARTICLES.sub(" ", text).split())


# In order of application: articles are removed before whitespace is joined.
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
