"""Shards: parts of a stage's work that run as separate jobs on any machine; the stage combines their results.

The work is cut into pieces by content alone, a shard is a consecutive range of pieces, and results are combined in
order. The number of shards therefore does not change a byte of the output. The results of a shard are in a temporary
file, its part; it is written and read by the same version of the code, so pickle suffices.
"""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.atomic import writing
from snaketune.core.errors import DataError

# With more shards, combining their results costs more than they save.
MOST_SHARDS = 64


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``count`` shards; ``index`` counts from 1."""

    index: int
    count: int

    @classmethod
    def named(cls, name: str) -> "Shard":
        """Return the shard with a name such as ``3-of-7``."""
        index, _, count = name.partition("-of-")
        return cls(int(index), int(count))

    def holds(self, start: int, total: int) -> bool:
        """Return whether the piece that begins at byte ``start`` of ``total`` bytes belongs to this shard."""
        return self.of(start, total) == self.index

    def of(self, start: int, total: int) -> int:
        """Return the index of the shard that owns the piece beginning at byte ``start``."""
        return min(start * self.count // max(total, 1), self.count - 1) + 1


def names_of(count: int) -> list[str]:
    """Return the names of all shards in order; none if a single job does all the work."""
    return [f"{index}-of-{count}" for index in range(1, count + 1)] if count > 1 else []


def write_part(path: str | Path, results: Iterable[Any]) -> None:
    """Write the results of a shard's pieces consecutively to a file that is either complete or absent."""
    with writing(path) as file:
        for result in results:
            pickle.dump(result, file, pickle.HIGHEST_PROTOCOL)


def read_parts(paths: Sequence[str | Path]) -> Iterator[Any]:
    """Yield the results of all pieces in order, with one in memory at a time.

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


def one_result_each(pieces: Iterable[Any], results: Iterator[Any]) -> Iterator[Any]:
    """Yield one result per piece, without consuming any beyond.

    Raises:
        DataError: if there are fewer results than pieces.
    """
    for _ in pieces:
        try:
            yield next(results)
        except StopIteration:
            raise unfit_parts() from None


def unfit_parts() -> DataError:
    """Return the error for parts that are not those of the data."""
    return DataError(
        "The shard parts do not match the data: delete the folder `parts` of this stage and run the same command."
    )


def _unfit(path: str | Path) -> DataError:
    return DataError(f"{path} was damaged on disk: delete it and run the same command.")
