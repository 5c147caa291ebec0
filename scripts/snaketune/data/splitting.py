"""The held-out split: a record's prompt and the seed alone decide on which side it is.

Equal prompts are never on both sides, and a growing corpus moves no record from one side to the other. (The one
exception: a set so small that nothing would be held out lends its lowest hash; growing, it may take it back.)
"""

from pathlib import Path
from typing import IO

import numpy as np
import xxhash

from snaketune.common.errors import DataError
from snaketune.data.records import END_OF_TURN, Turn, key_bytes, prompt_of, read_turns

HASHES = 1 << 64


def prompt_hash(turns: list[Turn], seed: int) -> int:
    """Return the 64-bit hash that places a record, from the seed and its normalised prompt."""
    return xxhash.xxh3_64_intdigest(str(seed).encode() + END_OF_TURN + key_bytes(prompt_of(turns)))


def plan_split(path: str | Path, test_size: float, seed: int) -> np.ndarray:
    """Return which records are held out.

    Args:
        path: canonical records.
        test_size: fraction of prompts to hold out; 0 for none, otherwise at least one is.
        seed: another seed holds out others.

    Returns:
        bool, shape [records].

    Raises:
        DataError: if no record is left to train on.
    """
    hashes = np.fromiter((prompt_hash(turns, seed) for turns in read_turns(path)), np.uint64)
    held_out = hashes < min(int(test_size * HASHES), HASHES - 1)
    if test_size and len(hashes) and not held_out.any():
        held_out = hashes == hashes.min()
    if held_out.all():
        raise DataError(
            f"split.test_size: with {test_size} all {len(hashes)} records are held out and none is left to train on:"
            " give more data or prompts that differ, lower it, or set it to 0."
        )
    return held_out


def carry_out(held_out: np.ndarray, path: str | Path, train: IO[bytes], evaluation: IO[bytes]) -> None:
    """Copy the raw lines of the records at ``path`` to the side they belong to, in order."""
    with open(path, "rb") as lines:
        for line, held in zip(lines, held_out.tolist(), strict=True):
            (evaluation if held else train).write(line)
