"""Exact duplicates: the first record stays, later ones with the same normalised text are listed with it.

Removal is a plan first, one number per record, and is carried out in a second pass over the raw lines. Every way of
finding duplicates ends in such a plan. Memory is 16 bytes per record plus the sort, whatever the records hold.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
import xxhash

from snaketune.data.records import key_bytes, read_turns, turns_of

EXCERPT_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """For each record the index of the record that stands for it: its own where it stays.

    Attributes:
        stands: int64, shape [records].
        kind: how the duplicates were found.
    """

    stands: np.ndarray
    kind: str

    @property
    def removed(self) -> int:
        """The number of records that go."""
        return int(np.count_nonzero(self.stands != np.arange(len(self.stands))))

    def facts(self) -> dict[str, int]:
        """Return the counts for the manifest."""
        return {"records_in": len(self.stands), "kept": len(self.stands) - self.removed, "removed": self.removed}


def plan_exact(path: str | Path) -> RemovalPlan:
    """Return the plan that keeps the first of all records with the same XXH3-128 of their normalised text."""
    keys = bytearray()
    for turns in read_turns(path):
        keys += xxhash.xxh3_128_digest(key_bytes(turns))
    return RemovalPlan(first_occurrences(np.frombuffer(keys, "<u8").reshape(-1, 2)), "exact")


def plan_nothing(path: str | Path) -> RemovalPlan:
    """Return the plan that keeps every record."""
    return RemovalPlan(np.arange(sum(1 for _ in read_turns(path))), "exact")


def first_occurrences(keys: np.ndarray) -> np.ndarray:
    """Return for each key the index of its first occurrence.

    Args:
        keys: uint64, shape [n, 2]: the halves of 128-bit keys.

    Returns:
        int64, shape [n].
    """
    high, low = keys[:, 0], keys[:, 1]
    order = np.argsort(high, kind="stable")
    same = high[order][1:] == high[order][:-1]
    if not np.array_equal(same, same & (low[order][1:] == low[order][:-1])):
        # Two keys share one half only (at 100 million records a chance of 1 in 4,000): sort by both.
        order = np.lexsort((low, high))
        same = (keys[order][1:] == keys[order][:-1]).all(axis=1)
    starts = np.flatnonzero(np.concatenate([[True], ~same])) if len(order) else order
    groups = np.diff(np.append(starts, len(order)))
    first = np.empty(len(order), np.int64)
    first[order] = np.repeat(order[starts], groups)
    return first


def carry_out(plan: RemovalPlan, path: str | Path, kept: IO[bytes], duplicates: IO[bytes]) -> None:
    """Copy the raw lines that stay to ``kept`` and list each other record with the one that stands for it."""
    own = np.arange(len(plan.stands))
    standing = np.zeros(len(own), bool)
    standing[plan.stands[plan.stands != own]] = True
    places: dict[int, dict[str, int]] = {}
    with open(path, "rb") as lines:
        for index, line in enumerate(lines):
            stand = int(plan.stands[index])
            if stand == index:
                kept.write(line)
                if standing[index]:
                    places[index] = _place(orjson.loads(line))
            else:
                duplicates.write(_pair(orjson.loads(line), places[stand], plan.kind))


def _place(record: dict[str, Any]) -> dict[str, int]:
    return {"source": record["source"], "line": record["line"]}


def _pair(record: dict[str, Any], kept: dict[str, int], kind: str) -> bytes:
    text = " → ".join(" ".join(content[:EXCERPT_CHARACTERS].split()) for _, content in turns_of(record))
    entry = {
        "removed": _place(record),
        "kept": kept,
        "kind": kind,
        "similarity": 1.0,
        "text": text[:EXCERPT_CHARACTERS],
    }
    return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
