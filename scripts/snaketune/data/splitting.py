"""Training and held-out records, decided by the prompt alone: growth moves nothing, equal prompts stay together."""

from collections.abc import Callable, Iterable
from typing import IO, Any

import orjson
import xxhash

from snaketune.common.errors import DataError
from snaketune.data.deduping import normalised

SPACE = 1 << 64


def prompt_of(record: dict[str, Any]) -> str:
    """Return what a record asks: all turns before the last answer, or the whole text; normalised, lower case."""
    if "text" in record:
        return normalised(record["text"]).lower()
    turns = record["messages"][:-1]
    return "\x1f".join(normalised(turn["content"]).lower() for turn in turns if turn["role"] != "system")


def position(record: dict[str, Any], seed: int) -> int:
    """Return where the record's prompt falls in the 64-bit space."""
    return xxhash.xxh3_64_intdigest(prompt_of(record).encode(), seed)


def split(
    lines: Callable[[], Iterable[bytes]], test_size: float, seed: int, train: IO[bytes], held_out: IO[bytes]
) -> dict[str, int]:
    """Write each line to one of the two splits, in order; a prompt is held out when it falls below the fraction.

    Args:
        lines: gives the records anew at each call; a small data set is read twice.
        test_size: fraction of prompts to hold out; with more than 0 at least one is.
        seed: decides which prompts.

    Raises:
        DataError: if nothing is left to train on.
    """
    limit = int(test_size * SPACE)
    if test_size > 0:
        smallest = min((position(orjson.loads(line), seed) for line in lines()), default=0)
        limit = max(limit, smallest + 1)
    counts = {"train": 0, "eval": 0}
    for line in lines():
        held = limit > 0 and position(orjson.loads(line), seed) < limit
        (held_out if held else train).write(line)
        counts["eval" if held else "train"] += 1
    if not counts["train"]:
        raise DataError(
            f"split.test_size: {test_size:g} leaves none of {counts['eval']} records to train on: lower it or add some."
        )
    return counts
