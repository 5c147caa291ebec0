"""Documents longer than the maximum length, with the beginning of their text, for the report."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from snaketune.data.records.canonical_records import turns_of
from snaketune.report.text import Excerpt, excerpt

SHOWN_RECORDS = 3
TOO_LONG_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class TooLong:
    """A document over the limit: its length in tokens, where its record came from, and how it begins."""

    tokens: int
    place: tuple[int, int]
    text: Excerpt


def find_too_long(tokens: Path, records: Path, limit: int) -> tuple[TooLong, ...]:
    """Return the longest training documents that are longer than ``limit``.

    Args:
        tokens: the folder of the tokenised training split.
        records: the file of the training split, a line for each record.
        limit: the maximum length in tokens.
    """
    from snaketune.data.tokens.token_store import TokenStore  # here: it imports pyarrow, and every start this module

    store = TokenStore(tokens)
    longer = np.flatnonzero(store.lengths > limit)
    longest = longer[np.argsort(-store.lengths[longer], kind="stable")][:SHOWN_RECORDS].tolist()
    wanted = {int(store.records[index]): int(store.lengths[index]) for index in longest}
    return tuple(sorted((_too_long(*one) for one in _lines(records, wanted)), key=lambda found: -found.tokens))


def _lines(records: Path, wanted: dict[int, int]) -> list[tuple[bytes, int]]:
    if not wanted:
        return []
    with open(records, "rb") as file:
        lines = enumerate(itertools.islice(file, max(wanted) + 1))
        return [(line, wanted[number]) for number, line in lines if number in wanted]


def _too_long(line: bytes, tokens: int) -> TooLong:
    record = orjson.loads(line)
    text = " \u2192 ".join(content[:TOO_LONG_CHARACTERS] for _, content in turns_of(record))
    return TooLong(tokens, (record["source"], record["line"]), excerpt(text, TOO_LONG_CHARACTERS))
