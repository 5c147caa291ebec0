"""In which order rows are taken, and how those of a batch come together."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, Sampler

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.batches import Layout, arrange
from snaketune.train.monitoring.step_timers import batch_facts


class RowIndices(Dataset[Any]):
    """The indices of packed rows: the rows themselves are read when a batch is put together.

    An index beyond the last row means a row of padding.
    """

    def __init__(self, rows: PackedRows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return index


class RowCollator:
    """Put packed rows into a batch; ``facts`` says what is counted about it."""

    def __init__(self, rows: PackedRows, layout: Layout):
        self._rows, self._layout = rows, layout

    def __call__(self, indices: list[int]) -> dict[str, Any]:
        """Return the batch of the rows ``indices``."""
        real = [index for index in indices if index < len(self._rows)]
        layout = dataclasses.replace(self._layout, rows=max(self._layout.rows, len(indices)))
        return {**arrange(self._rows, real, layout), "facts": batch_facts(self._rows, real)}


class EvenSampler(Sampler[int]):
    """The order of one process, filled up with rows of padding so that several take equally many.

    Without the filling the last turn of an epoch would show some rows twice.

    Args:
        dataset: the rows that are put in order; it has a length.
        seed: of the order.
        turn: rows that all processes together take at a time.
    """

    def __init__(self, dataset: Any, seed: int, turn: int):
        self._order = SeedableRandomSampler(dataset, data_seed=seed)
        self._rows, self._total = len(dataset), -(-len(dataset) // turn) * turn

    def set_epoch(self, epoch: int) -> None:
        """Take the order of another epoch."""
        self._order.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        yield from self._order
        yield from range(self._rows, self._total)

    def __len__(self) -> int:
        return self._total


def end_loaders(loaders: Iterable[Any]) -> None:
    """End the processes that load rows. They are kept from one epoch to the next, and belong to the trainer.

    Left to the garbage collector, as all of a trainer is, each one was waited for five seconds by the next training of
    the process: their queues are closed before they are told to end.
    """
    for loader in loaders:
        base = getattr(loader, "base_dataloader", loader)
        if (iterator := getattr(base, "_iterator", None)) is not None:
            base._iterator = None
            iterator._shutdown_workers()
