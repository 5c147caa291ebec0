"""Packed rows on disk: of fixed size, memory-mapped, with the boundaries of their documents.

Fixed-size list columns make a row's tokens contiguous at a computable offset, so training reads any row without a
copy. Positions are stored, since they restart in each document: attention derives the document boundaries from them.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from snaketune.core.atomic import sibling
from snaketune.data.rows.cutting import Documents
from snaketune.data.rows.packing import RowPlan

BATCH_TOKENS = 1 << 20
TokensAndLabels = tuple[np.ndarray, np.ndarray]
FIXED = {"input_ids": pa.int32(), "loss_mask": pa.int8(), "position_ids": pa.int32()}


@dataclass(frozen=True, slots=True)
class PackedDocument:
    """A document in a row: the index of its record, the position of its first token, and its length in tokens."""

    record: int
    start: int
    length: int


def packed_schema(row_length: int, has_labels: bool = False, has_margins: bool = False) -> pa.Schema:
    """Return the Arrow schema of packed rows of ``row_length`` tokens.

    With labels each document is marked as rejected or not; with margins each pair has a margin.
    """
    fields = [(name, pa.list_(kind, row_length)) for name, kind in FIXED.items()]
    labels = [("rejected", pa.list_(pa.bool_()))] if has_labels else []
    labels += [("margins", pa.list_(pa.float32()))] if has_margins else []
    return pa.schema(
        [
            *fields,
            ("tokens", pa.int32()),
            ("documents", pa.list_(pa.int64())),
            ("lengths", pa.list_(pa.int32())),
            *labels,
        ]
    )


def write_rows(
    path: str | Path,
    store: Documents,
    rows: RowPlan | Iterable[np.ndarray],
    row_length: int,
    pad_id: int,
    margins: np.ndarray | None = None,
) -> dict[str, int | float]:
    """Write the rows (indices into ``store``) as an Arrow IPC file and return its counts.

    A pair becomes two neighbouring documents of one row, the chosen one first, and counts as one. If single documents
    are rejected answers, a column of labels marks them. ``margins``, shape [documents], are those of pairs. Memory
    holds one batch of about a million tokens.

    Raises:
        ValueError: if a document is longer than a row: :func:`snaketune.data.rows.cutting.cut` comes first.
    """
    path = Path(path)
    partial = sibling(path)
    plan = RowPlan.of(rows)
    counts = {"rows": len(plan), "documents": len(plan.members), "tokens": 0, "trainable_tokens": 0}
    kind = packed_schema(row_length, bool((store.seconds < 0).any()), margins is not None)
    try:
        # Written beside the target and renamed: an interrupted run leaves no file that looks complete.
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, kind) as writer:
            for group in plan.groups(max(1, BATCH_TOKENS // row_length)):
                batch, tokens, trained = _row_batch(store, group, kind, pad_id, margins)
                writer.write_batch(batch)
                counts["tokens"] += tokens
                counts["trainable_tokens"] += trained
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    slots = counts["rows"] * row_length
    return {**counts, "efficiency": round(counts["tokens"] / slots, 6) if slots else 0.0}


def _row_batch(
    store: Documents, plan: RowPlan, kind: pa.Schema, pad_id: int, margins: np.ndarray | None
) -> tuple[pa.RecordBatch, int, int]:
    row_length = kind.field("input_ids").type.list_size
    documents, counts = _documents(store, plan.members, row_length)
    row_offsets = np.concatenate([[0], np.cumsum(counts)])[plan.offsets]
    sizes = np.fromiter((len(tokens) for tokens, _ in documents), np.int64, len(documents))
    # No row is empty, which reduceat would not handle: for an empty range it returns the next element.
    used = np.add.reduceat(sizes, row_offsets[:-1])
    starts = _starts(sizes, used, row_offsets, row_length)
    # The documents of a row are contiguous, so filling the used positions in order puts each token in its place.
    is_used = np.arange(row_length) < used[:, None]
    ids = np.full(is_used.shape, pad_id, np.int32)
    ids[is_used] = np.concatenate([tokens for tokens, _ in documents])
    mask = np.zeros(is_used.shape, np.int8)
    mask[is_used] = np.concatenate([trained for _, trained in documents])
    # The first token of a document must not be predicted from the last one of its neighbour in the row.
    mask.reshape(-1)[starts] = 0
    positions = _positions(starts, used, row_length)
    offsets = pa.array(row_offsets, pa.int32())
    records = np.repeat(store.records[plan.members], counts)
    columns = [
        *(pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), row_length) for part in (ids, mask, positions)),
        pa.array(used, pa.int32()),
        pa.ListArray.from_arrays(offsets, pa.array(records, pa.int64())),
        pa.ListArray.from_arrays(offsets, pa.array(sizes, pa.int32())),
    ]
    if "rejected" in kind.names:
        columns.append(pa.ListArray.from_arrays(offsets, pa.array(_rejected(store.seconds[plan.members], counts))))
    if margins is not None:
        own = pa.array(margins[plan.members], pa.float32())
        columns.append(pa.ListArray.from_arrays(pa.array(plan.offsets, pa.int32()), own))
    return pa.RecordBatch.from_arrays(columns, schema=kind), int(used.sum()), int(mask.sum())


def _rejected(seconds: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return which documents are rejected answers: the second of each pair, and single ones marked by -1."""
    lasts = np.cumsum(counts) - 1
    found = np.zeros(int(counts.sum()), bool)
    found[lasts] = seconds != 0
    return found


def _documents(store: Documents, members: np.ndarray, row_length: int) -> tuple[list[TokensAndLabels], np.ndarray]:
    """Return the documents that go into rows, and how many each member yields: two if it is a pair."""
    seconds = store.seconds[members]
    documents = [
        part
        for index, second in zip(members.tolist(), seconds.tolist(), strict=True)
        for part in _parts(store.document(index), second, row_length)
    ]
    return documents, 1 + (seconds > 0)


def _parts(document: TokensAndLabels, second: int, row_length: int) -> tuple[TokensAndLabels, ...]:
    """Return the document, or both documents of a pair."""
    tokens, trained = document
    if len(tokens) > row_length:
        raise ValueError(f"a document of {len(tokens)} tokens does not fit a row of {row_length}")
    if second <= 0:
        return (document,)
    return (tokens[:second], trained[:second]), (tokens[second:], trained[second:])


def _starts(sizes: np.ndarray, used: np.ndarray, row_offsets: np.ndarray, row_length: int) -> np.ndarray:
    """Return the position of each document's first token in the flattened rows."""
    before = np.cumsum(sizes) - sizes
    row_begins = np.cumsum(used) - used
    row_of = np.repeat(np.arange(len(used)), np.diff(row_offsets))
    found: np.ndarray = before - row_begins[row_of] + row_of * row_length
    return found


def _positions(starts: np.ndarray, used: np.ndarray, row_length: int) -> np.ndarray:
    """Return positions that restart at 0 in each document and in the padding, int32, flattened rows."""
    tails = np.arange(len(used)) * row_length + used
    # Subtracting from each token's index the index where its document or padding begins restarts the count there.
    edges = np.sort(np.concatenate([starts, tails[used < row_length]]))
    total = len(used) * row_length
    places = np.arange(total, dtype=np.int32)
    places -= np.repeat(edges.astype(np.int32), np.diff(edges, append=total))
    return places


class PackedRows:
    """Packed rows of one split, memory-mapped.

    Attributes:
        row_length: tokens of every row.
        tokens: real tokens of each row, shape [rows].
    """

    def __init__(self, path: str | Path):
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            self.row_length: int = reader.schema.field("input_ids").type.list_size
            self._batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)]).tolist()
        self._views = {name: [self._view(batch, name) for batch in self._batches] for name in FIXED}
        parts = [batch.column("tokens").to_numpy() for batch in self._batches]
        self.tokens = np.concatenate(parts) if parts else np.empty(0, np.int32)

    def __len__(self) -> int:
        found: int = self._starts[-1]
        return found

    def take(self, name: str, indices: Sequence[int]) -> np.ndarray:
        """Return the rows ``indices`` of ``input_ids``, ``loss_mask`` or ``position_ids``, shape [len, row_length]."""
        views = self._views[name]
        taken = np.empty((len(indices), self.row_length), FIXED[name].to_pandas_dtype())
        for place, (batch, row) in enumerate(map(self._locate, indices)):
            taken[place] = views[batch][row]
        return taken

    @property
    def input_ids(self) -> np.ndarray:
        """All token ids, shape [rows, row_length]; a copy when the file has several batches."""
        return self._whole("input_ids")

    @property
    def loss_mask(self) -> np.ndarray:
        """All loss masks, shape [rows, row_length]; 1 marks a loss-bearing token."""
        return self._whole("loss_mask")

    @property
    def position_ids(self) -> np.ndarray:
        """All positions, shape [rows, row_length], restarting at 0 in each document and in the padding."""
        return self._whole("position_ids")

    def documents(self, row: int) -> list[PackedDocument]:
        """Return the documents of row ``row`` in order."""
        batch, index = self._locate(row)
        records = self._batches[batch].column("documents")[index].as_py()
        lengths = self._batches[batch].column("lengths")[index].as_py()
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        return [PackedDocument(*entry) for entry in zip(records, starts, lengths, strict=True)]

    def rejected(self, row: int) -> np.ndarray:
        """Return which documents of row ``row`` are rejected answers, bool; without labels, the second of each pair."""
        batch, index = self._locate(row)
        found = self._batches[batch]
        if "rejected" in found.schema.names:
            return np.array(found.column("rejected")[index].as_py(), bool)
        # Without labels only pairs have rejected answers: two neighbours of the same record.
        records = np.array(found.column("documents")[index].as_py(), np.int64)
        result: np.ndarray = np.diff(records, prepend=-1) == 0
        return result

    def margins(self, row: int) -> np.ndarray:
        """Return by how much the chosen answer of each pair of row ``row`` is better, float32; 0 without margins."""
        batch, index = self._locate(row)
        found = self._batches[batch]
        if "margins" in found.schema.names:
            return np.array(found.column("margins")[index].as_py(), np.float32)
        return np.zeros(len(found.column("documents")[index]) // 2, np.float32)

    def _locate(self, row: int) -> tuple[int, int]:
        batch = bisect_right(self._starts, row) - 1
        return batch, row - self._starts[batch]

    def _view(self, batch: pa.RecordBatch, name: str) -> np.ndarray:
        found: np.ndarray = batch.column(name).values.to_numpy().reshape(batch.num_rows, self.row_length)
        return found

    def _whole(self, name: str) -> np.ndarray:
        views = self._views[name]
        if len(views) == 1:
            return views[0]
        return np.concatenate(views) if views else np.empty((0, self.row_length), np.int32)
