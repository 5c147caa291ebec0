"""Packing of documents into rows of equal length by best-fit decreasing.

Padding is computed like any other token and thrown away. Packing several documents into a row avoids most of it; the
loss mask and the restarting positions keep the documents of a row independent of each other.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from snaketune.core.errors import ConfigError

MIXES = "this model's layers mix the documents of a row (recurrent layers, or attention that ignores positions)"


@dataclass(frozen=True, slots=True)
class RowPlan:
    """The documents of each row, as two flat arrays.

    Attributes:
        members: indices of documents, row by row in layout order, int64, shape [documents].
        offsets: where each row begins in ``members``, and the end of the last one, int64, shape [rows + 1].
    """

    members: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: "Iterable[np.ndarray] | RowPlan") -> "RowPlan":
        """Return the plan of the given rows."""
        if isinstance(rows, cls):
            return rows
        listed = [np.asarray(row, np.int64) for row in rows]
        offsets = np.cumsum([0, *map(len, listed)], dtype=np.int64)
        return cls(np.concatenate([np.empty(0, np.int64), *listed]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.members[start:end] for start, end in pairwise(self.offsets.tolist()))

    def __getitem__(self, row: int) -> np.ndarray:
        row = range(len(self))[row]
        return self.members[self.offsets[row] : self.offsets[row + 1]]

    def among(self, chosen: np.ndarray) -> "RowPlan":
        """Return the plan with each document index replaced by its entry in ``chosen``."""
        return RowPlan(chosen[self.members], self.offsets)

    def groups(self, size: int) -> Iterator["RowPlan"]:
        """Yield the plan in parts of ``size`` rows."""
        for start in range(0, len(self), size):
            offsets = self.offsets[start : start + size + 1]
            yield RowPlan(self.members[offsets[0] : offsets[-1]], offsets - offsets[0])


def pack(lengths: np.ndarray, row_length: int) -> RowPlan:
    """Assign documents to rows by best-fit decreasing.

    Open rows are grouped by free space. A Python integer whose bit ``s`` is set while some row has ``s`` free tokens
    finds the tightest fit in one operation, so 500,000 documents take about half a second.

    Args:
        lengths: tokens of each document, shape [documents]; none may exceed ``row_length``.
        row_length: tokens of a row.

    Returns:
        For each row the indices of its documents, in the order they are laid out (by index).

    Raises:
        ValueError: if a document is longer than a row or empty.
    """
    if len(lengths) and (int(lengths.max()) > row_length or int(lengths.min()) < 1):
        raise ValueError(f"documents must have 1 to {row_length} tokens")
    # Longest first: best-fit decreasing needs at most 11/9 of the rows of an optimal packing, plus a constant
    # (D. S. Johnson et al., SIAM Journal on Computing 3(4), 1974). Finding the optimum is NP-hard. The sort is stable,
    # so documents of equal length keep their order and the plan is the same on every machine.
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    row_of = np.empty(len(lengths), np.int64)
    # Plain Python integers, one at a time: element access on a numpy array costs several times as much in this loop.
    row_of[order] = _rows_of(lengths[order].astype(np.int64).data, row_length)
    # A stable sort by row keeps the documents of a row in their own order.
    counts = np.bincount(row_of)
    return RowPlan(np.argsort(row_of, kind="stable"), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def _rows_of(lengths: Iterable[int], row_length: int) -> np.ndarray:
    """Return the row of each document, the longest one first."""
    open_rows: list[list[int]] = [[] for _ in range(row_length + 1)]
    spaces, rows = 0, 0
    found = array("q")
    for length in lengths:
        # Bit s of ``spaces`` is set while some open row has exactly s free tokens. The shift leaves the rows in which
        # the document fits, and x & -x isolates the lowest set bit: the row with the least space left over.
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            waiting = open_rows[space]
            row = waiting.pop()  # the last one opened; which of equally full rows is taken changes no count of rows
            if not waiting:
                spaces ^= 1 << space
        else:
            space, row = row_length, rows
            rows += 1
        found.append(row)
        if left := space - length:
            open_rows[left].append(row)
            spaces |= 1 << left
    return np.array(found, np.int64)


def one_per_row(lengths: np.ndarray) -> RowPlan:
    """Return one row per document, the shortest first, as ``packing: false`` requires.

    Rows of similar length are neighbours, so that batches of consecutive rows need little padding.
    """
    return RowPlan(np.argsort(lengths, kind="stable"), np.arange(len(lengths) + 1, dtype=np.int64))


def wants_packing(wanted: bool, model_packs: bool | None) -> bool:
    """Return whether to pack rows, and print a line if the model rules it out.

    Args:
        wanted: ``tokens.packing``.
        model_packs: whether the model keeps the documents of a row independent; None if it could not be tested.
    """
    if wanted and model_packs is False:
        print(f"Packing is off, each row holds one document: {MIXES}.", flush=True)
    return wanted and model_packs is not False


def refuse_mixed_pairs(has_pairs: bool, model_packs: bool | None) -> None:
    """Raise ConfigError if there are pairs, whose answers share a row, and the model mixes the documents of a row."""
    if has_pairs and model_packs is False:
        raise ConfigError(f"train.method: the two answers of a pair share a row, and {MIXES}: choose another model.")
