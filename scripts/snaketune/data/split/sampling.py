"""Samples and weights of sources: seeded, by content or place, and the same on every machine.

``max_records`` keeps the records of a source whose content has the lowest hashes. A sample therefore does not depend on
the order of the records, and changes little when the source grows.
"""

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import xxhash

from snaketune.storage.copy_targets import NamedSource

HASHES = float(1 << 64)
# Canonical records begin with their place, {"source":0,"line":1, so it is found without parsing the line.
SOURCE_START, LINE_START = len(b'{"source":'), b',"line":'


def sample(records: Path, out: IO[bytes], sources: Sequence[NamedSource], limit: int | None, seed: int) -> list[int]:
    """Copy a sample of canonical records to ``out``, in order.

    Files of one configured source share its ``max_records``. Memory: 12 bytes per record.

    Args:
        records: the canonical records.
        out: receives the lines that are kept.
        sources: sources with their options, in the order of the records' source numbers.
        limit: maximum number of records of all sources together, or None.
        seed: a different seed selects different records.

    Returns:
        The number of records left out of each source.
    """
    hashes, numbers = _hashes(records, seed)
    kept = np.ones(len(hashes), bool)
    for part, most in _limits(sources).items():
        own = np.flatnonzero(np.isin(numbers, [n for n, source in enumerate(sources) if source.part == part]))
        kept[own[_beyond(hashes[own], most)]] = False
    if limit is not None:
        left = np.flatnonzero(kept)
        kept[left[_beyond(hashes[left], limit)]] = False
    with open(records, "rb") as lines:
        out.writelines(line for line, is_kept in zip(lines, kept.data, strict=True) if is_kept)
    found: list[int] = np.bincount(numbers[~kept], minlength=len(sources)).tolist()
    return found


def repetitions(sources: np.ndarray, lines: np.ndarray, weights: Sequence[float], seed: int) -> np.ndarray:
    """Return how often each training record is repeated in an epoch, int64 [records].

    A weight of 2.25 means twice, and a third time for a seeded quarter of the records, chosen by place.

    Args:
        sources: number of each record's source.
        lines: number of its line, item or row in the source.
        weights: weights of the sources.
        seed: a different seed selects different records.
    """
    own = np.asarray(weights, np.float64)[sources]
    whole = np.floor(own)
    found: np.ndarray = (whole + (_fractions(sources, lines, seed) < own - whole)).astype(np.int64)
    return found


def _fractions(sources: np.ndarray, lines: np.ndarray, seed: int) -> np.ndarray:
    """Return a number in [0, 1) for each place, by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    # A stateless hash rather than a generator: a record's fraction depends on no other record. Overflow is intended.
    with np.errstate(over="ignore"):
        mixed = lines.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed += (sources.astype(np.uint64) + np.uint64(1)) * np.uint64(0xD1B54A32D192ED03) + np.uint64(
            seed % (1 << 64)
        )
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    return mixed.astype(np.float64) / HASHES


def _limits(sources: Sequence[NamedSource]) -> dict[int, int]:
    return {source.part: source.options["max_records"] for source in sources if "max_records" in source.options}


def _hashes(records: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the hash of each record's content and the number of its source."""
    # The place is left out of the hash: it changes when lines are inserted before the record.
    hashes, numbers = array("Q"), array("i")
    start = str(seed).encode()
    with open(records, "rb") as lines:
        for line in lines:
            place = line.index(LINE_START, SOURCE_START)
            content = line.index(b",", place + len(LINE_START))
            numbers.append(int(line[SOURCE_START:place]))
            hashes.append(xxhash.xxh3_64_intdigest(start + line[content:]))
    return np.array(hashes, np.uint64), np.array(numbers, np.int32)


def _beyond(hashes: np.ndarray, most: int) -> Any:
    """Return the indices of all but the ``most`` lowest hashes; ties are broken by position."""
    return np.argsort(hashes, kind="stable")[most:]
