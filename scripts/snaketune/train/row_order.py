"""The order in which rows are visited, and how the rows of a batch are collated."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, Sampler

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.batches import BatchLayout, arrange
from snaketune.train.monitoring.step_timers import batch_facts


class RowIndices(Dataset[Any]):
    """A dataset of row indices: the rows themselves are read when a batch is collated.

    An index beyond the last row stands for a row of padding.
    """

    def __init__(self, rows: PackedRows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return index


class RowCollator:
    """Collate packed rows into a batch; its ``facts`` hold the counts of rows and tokens."""

    def __init__(self, rows: PackedRows, layout: BatchLayout):
        self._rows, self._layout = rows, layout

    def __call__(self, indices: list[int]) -> dict[str, Any]:
        """Return the batch of the rows ``indices``."""
        real = [index for index in indices if index < len(self._rows)]
        layout = dataclasses.replace(self._layout, rows=max(self._layout.rows, len(indices)))
        return {**arrange(self._rows, real, layout), "facts": batch_facts(self._rows, real)}


class EvenSampler(Sampler[int]):
    """The row order of an epoch, extended by padding rows so that all processes take equally many.

    Without the padding, accelerate would repeat rows from the start of the epoch to fill its last turn.

    Args:
        dataset: the rows to order; only its length is used.
        seed: of the order.
        turn: rows that all processes together take at a time.
    """

    def __init__(self, dataset: Any, seed: int, turn: int):
        self._order = SeedableRandomSampler(dataset, data_seed=seed)
        self._rows, self._total = len(dataset), -(-len(dataset) // turn) * turn

    def set_epoch(self, epoch: int) -> None:
        """Select the order of an epoch: it depends on seed and epoch alone, so a resumed run repeats it."""
        self._order.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        yield from self._order
        yield from range(self._rows, self._total)

    def __len__(self) -> int:
        return self._total


def end_loaders(loaders: Iterable[Any]) -> None:
    """End the data loader workers, which persist between epochs.

    Left to the garbage collector, each of them delays the next training of the process by five seconds: their queues
    are closed before they are told to end.
    """
    for loader in loaders:
        base = getattr(loader, "base_dataloader", loader)
        if (iterator := getattr(base, "_iterator", None)) is not None:
            base._iterator = None
            iterator._shutdown_workers()
