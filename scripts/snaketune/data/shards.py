"""Shards: shares of a stage's work that are jobs of their own, on any machine; the stage puts their results together.

The work is cut into pieces by the content alone, a shard is a stretch of them, and results are put together in order.
So the number of shards changes no byte of what a stage makes. A part is the file of a shard's results; it is
temporary, written and read by the same version of the code, and therefore simply pickled.
"""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.atomic import writing
from snaketune.core.errors import DataError

# More than this cost more to put together than they bring.
MOST_SHARDS = 64


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``count`` shares of the work, ``index`` from 1."""

    index: int
    count: int

    @classmethod
    def named(cls, name: str) -> "Shard":
        """Return the shard that a file name calls ``3-of-7``."""
        index, _, count = name.partition("-of-")
        return cls(int(index), int(count))

    def holds(self, start: int, total: int) -> bool:
        """Tell whether the piece that begins at byte ``start`` of ``total`` bytes belongs to this shard."""
        return self.of(start, total) == self.index

    def of(self, start: int, total: int) -> int:
        """Return the index of the one of all shards that has the piece which begins there."""
        return min(start * self.count // max(total, 1), self.count - 1) + 1


def names_of(count: int) -> list[str]:
    """Return the names of all shards, in order; none where one job does everything."""
    return [f"{index}-of-{count}" for index in range(1, count + 1)] if count > 1 else []


def write_part(path: str | Path, results: Iterable[Any]) -> None:
    """Write the results of a shard's pieces, one after the other, so that the file is whole or absent."""
    with writing(path) as file:
        for result in results:
            pickle.dump(result, file, pickle.HIGHEST_PROTOCOL)


def read_parts(paths: Sequence[str | Path]) -> Iterator[Any]:
    """Yield the results of all pieces, in order; one is in memory at a time.

    Raises:
        DataError: if a part is damaged.
    """
    for path in paths:
        with open(path, "rb") as file:
            size = Path(path).stat().st_size
            while file.tell() < size:
                try:
                    yield pickle.load(file)
                except (pickle.UnpicklingError, EOFError, AttributeError, ValueError):
                    raise _unfit(path) from None


def gathered(pieces: Iterable[Any], results: Iterator[Any]) -> Iterator[Any]:
    """Yield one of the results for each piece, and leave those that follow.

    Raises:
        DataError: if there are fewer results than pieces.
    """
    for _ in pieces:
        try:
            yield next(results)
        except StopIteration:
            raise DataError(
                "The shard parts do not match the data: delete the folder `parts` of this stage and run the same"
                " command."
            ) from None


def _unfit(path: str | Path) -> DataError:
    return DataError(f"{path} was damaged on disk: delete it and run the same command.")
