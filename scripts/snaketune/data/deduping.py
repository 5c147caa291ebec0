"""Exact duplicates: equal after Unicode and white space are normalised, the first of each is kept."""

import unicodedata
from collections.abc import Iterable
from typing import IO, Any

import orjson
import xxhash

EXCERPT_CHARACTERS = 300


def normalised(text: str) -> str:
    """Return ``text`` in Unicode's NFKC form with runs of white space as one space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.split())


def key_of(record: dict[str, Any]) -> bytes:
    """Return the 128-bit key of a record: equal for records with the same roles and the same normalised texts.

    Collisions are out of the question: p < 1e-22 for 10**8 records.
    """
    if "text" in record:
        parts = ["text", normalised(record["text"])]
    else:
        parts = [part for turn in record["messages"] for part in (turn["role"], normalised(turn["content"]))]
    return xxhash.xxh3_128_digest("\x1f".join(parts).encode())


def dedupe(lines: Iterable[bytes], exact: bool, kept: IO[bytes], duplicates: IO[bytes]) -> dict[str, int]:
    """Pass the first of equal records on, untouched, and write both members of each removed pair.

    Memory holds one key (16 bytes) and the place of each distinct record.
    """
    first: dict[bytes, tuple[int, int]] = {}
    counts = {"records_in": 0, "kept": 0, "removed": 0}
    for line in lines:
        counts["records_in"] += 1
        record = orjson.loads(line)
        place = (record["source"], record["line"])
        original = first.setdefault(key_of(record), place) if exact else place
        if original == place:
            counts["kept"] += 1
            kept.write(line)
        else:
            counts["removed"] += 1
            duplicates.write(_pair(record, place, original))
    return counts


def _pair(record: dict[str, Any], removed: tuple[int, int], original: tuple[int, int]) -> bytes:
    text = record["text"] if "text" in record else "\n".join(turn["content"] for turn in record["messages"])
    pair = {
        "removed": {"source": removed[0], "line": removed[1]},
        "kept": {"source": original[0], "line": original[1]},
        "kind": "exact",
        "similarity": 1.0,
        "text": text[:EXCERPT_CHARACTERS],
    }
    return orjson.dumps(pair, option=orjson.OPT_APPEND_NEWLINE)
