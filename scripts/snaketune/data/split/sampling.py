"""Samples of records, and records trained more or less often: seeded, by content or place, the same on every machine.

Of a source with ``max_records`` those records are taken whose content has the lowest hashes. So a sample does not
depend on the order of the records, and a growing source changes few of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import xxhash

from snaketune.storage.copy_targets import Source

HASHES = float(1 << 64)
# Canonical records begin with their place: {"source":0,"line":1,
SOURCE_START, LINE_START = len(b'{"source":'), b',"line":'


def sample(records: Path, out: IO[bytes], sources: Sequence[Source], limit: int | None, seed: int) -> list[int]:
    """Copy a sample of canonical records to ``out``, in order.

    Files of one configured source share its ``max_records``. Memory: 12 bytes per record.

    Args:
        records: the canonical records.
        out: receives the lines that are kept.
        sources: with their options, in the order of the records' source numbers.
        limit: the most records of all sources together, None for any number.
        seed: another seed takes others.

    Returns:
        for each source the number of records that were left out.
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
        out.writelines(line for line, is_kept in zip(lines, kept.tolist(), strict=True) if is_kept)
    found: list[int] = np.bincount(numbers[~kept], minlength=len(sources)).tolist()
    return found


def repetitions(sources: np.ndarray, lines: np.ndarray, weights: Sequence[float], seed: int) -> np.ndarray:
    """Return how often each training record is trained in an epoch, int64 [records].

    A weight of 2.25 is two times, and a third time for a seeded quarter of the records, chosen by their places.

    Args:
        sources: number of each record's source.
        lines: number of its line, item or row there.
        weights: of the sources.
        seed: another seed takes others.
    """
    own = np.asarray(weights, np.float64)[sources]
    whole = np.floor(own)
    found: np.ndarray = (whole + (_fractions(sources, lines, seed) < own - whole)).astype(np.int64)
    return found


def _fractions(sources: np.ndarray, lines: np.ndarray, seed: int) -> np.ndarray:
    """Return a number in [0, 1) for each place, by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        mixed = lines.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed += (sources.astype(np.uint64) + np.uint64(1)) * np.uint64(0xD1B54A32D192ED03) + np.uint64(
            seed % (1 << 64)
        )
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    return mixed.astype(np.float64) / HASHES


def _limits(sources: Sequence[Source]) -> dict[int, int]:
    return {source.part: source.options["max_records"] for source in sources if "max_records" in source.options}


def _hashes(records: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the hash of each record's content and the number of its source."""
    hashes: list[int] = []
    numbers: list[int] = []
    start = str(seed).encode()
    with open(records, "rb") as lines:
        for line in lines:
            place = line.index(LINE_START, SOURCE_START)
            content = line.index(b",", place + len(LINE_START))
            numbers.append(int(line[SOURCE_START:place]))
            hashes.append(xxhash.xxh3_64_intdigest(start + line[content:]))
    return np.array(hashes, np.uint64), np.array(numbers, np.int32)


def _beyond(hashes: np.ndarray, most: int) -> Any:
    """Return the places of all but the lowest hashes; of equal ones the first are lower."""
    return np.argsort(hashes, kind="stable")[most:]
