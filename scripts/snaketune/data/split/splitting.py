"""The held-out split: the side of a record depends on its prompt and the seed alone.

Equal prompts are never on both sides, and a growing corpus moves no record to the other side. The only exception is a
data set (or, with stratification, a source) so small that nothing would be held out: its prompt with the lowest hash is
held out until the set has grown.
"""

from itertools import repeat
from pathlib import Path
from typing import IO

import numpy as np
import xxhash

from snaketune.core.errors import DataError
from snaketune.data.parallel import in_processes
from snaketune.data.records.canonical_records import (
    END_OF_TURN,
    Range,
    RoleAndText,
    key_bytes,
    line_ranges,
    prompt_of,
    read_turns,
)
from snaketune.data.similarity.removal import LineIndex

HASH_RANGE = 1 << 64


def prompt_hash(turns: list[RoleAndText], seed: int) -> int:
    """Return the 64-bit hash that decides a record's side, from the seed and its normalised prompt."""
    return xxhash.xxh3_64_intdigest(str(seed).encode() + END_OF_TURN + key_bytes(prompt_of(turns)))


def plan_split(
    path: str | Path, test_size: float, seed: int, index: LineIndex | None = None, threads: int = 1
) -> np.ndarray:
    """Return which records are held out.

    Args:
        path: canonical records.
        test_size: fraction of prompts to hold out; 0 for none, otherwise at least one is held out.
        seed: a different seed holds out different records.
        index: given to stratify by source: each source with two or more prompts has at least one held out.
        threads: processes to use.

    Returns:
        bool, shape [records].

    Raises:
        DataError: if no record is left to train on.
    """
    tasks = [(Path(path), span, seed) for span in line_ranges(path)]
    hashes = np.frombuffer(b"".join(in_processes(hashes_of_range, tasks, threads)), np.uint64)
    # Comparing a uniform hash with a threshold is a draw per prompt that depends on no other record: shuffling or
    # adding records changes nothing. The held-out fraction is approximate for the same reason.
    held_out = hashes < min(int(test_size * HASH_RANGE), HASH_RANGE - 1)
    if test_size and len(hashes) and not held_out.any():
        held_out = hashes == hashes.min()
    if test_size and index:
        held_out |= np.isin(hashes, _lent(hashes, held_out, index.sources))
    if held_out.all():
        raise DataError(
            f"split.test_size: with {test_size} all {len(hashes)} records are held out and none is left to train on: "
            "give more data or more varied prompts, lower it, or set it to 0."
        )
    return held_out


def hashes_of_range(path: Path, span: Range, seed: int) -> bytes:
    """Return the prompt hashes of a range of records, 8 bytes each in native byte order."""
    return np.fromiter((prompt_hash(turns, seed) for turns in read_turns(path, span)), np.uint64).tobytes()


def _lent(hashes: np.ndarray, held_out: np.ndarray, sources: np.ndarray) -> list[int]:
    """Return the lowest hash of each source with two or more prompts and none held out."""
    lent = []
    for source in np.unique(sources):
        own = sources == source
        if not held_out[own].any() and (hashes[own] != hashes[own][0]).any():
            lent.append(hashes[own].min())
    return lent


def write_splits(
    side: np.ndarray, path: str | Path, train: IO[bytes], evaluation: IO[bytes], times: np.ndarray | None = None
) -> None:
    """Copy the raw lines of the records at ``path`` to the side they belong to, in order.

    Args:
        side: for each record whether it is held out (1), trained on (0) or dropped (-1).
        path: canonical records.
        train: receives the training lines.
        evaluation: receives the held-out lines.
        times: how often each record is written to ``train``, once if None; ignored for records of other sides.
    """
    # Views yield one number at a time; lists would take eight bytes and more for each record.
    often = repeat(1, len(side)) if times is None else np.ascontiguousarray(times, np.int64).data
    with open(path, "rb") as lines:
        for line, place, count in zip(lines, side.astype(np.int8).data, often, strict=True):
            if place > 0:
                evaluation.write(line)
            elif place == 0:
                train.write(line if count == 1 else line * count)
