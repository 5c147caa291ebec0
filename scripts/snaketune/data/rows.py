"""Packed rows on disk: fixed-size, memory-mapped, with the boundaries of their documents."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from snaketune.common.atomic import sibling
from snaketune.data.packing import window
from snaketune.data.token_store import TokenStore

BATCH_TOKENS = 1 << 20
FIXED = {"input_ids": pa.int32(), "loss_mask": pa.int8(), "position_ids": pa.int32()}


@dataclass(frozen=True, slots=True)
class Document:
    """A document in a row: the index of its record, its first token in the row and its length in tokens."""

    record: int
    start: int
    length: int


def schema(row_length: int) -> pa.Schema:
    """Return the Arrow schema of packed rows of ``row_length`` tokens."""
    fields = [(name, pa.list_(kind, row_length)) for name, kind in FIXED.items()]
    return pa.schema(
        [*fields, ("tokens", pa.int32()), ("documents", pa.list_(pa.int64())), ("lengths", pa.list_(pa.int32()))]
    )


def write_rows(
    path: str | Path, store: TokenStore, rows: Iterable[np.ndarray], row_length: int, pad_id: int
) -> dict[str, int | float]:
    """Write the rows (indices into ``store``) as an Arrow IPC file and return its counts.

    Documents longer than a row are cut to the window that keeps the answer. Memory holds one batch of about a
    million tokens.
    """
    path = Path(path)
    partial = sibling(path)
    counts = {"rows": 0, "documents": 0, "tokens": 0, "trainable_tokens": 0}
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema(row_length)) as writer:
        for group in _groups(rows, max(1, BATCH_TOKENS // row_length)):
            batch, tokens, trained = _row_batch(store, group, row_length, pad_id)
            writer.write_batch(batch)
            counts["rows"] += len(group)
            counts["documents"] += sum(map(len, group))
            counts["tokens"] += tokens
            counts["trainable_tokens"] += trained
    partial.replace(path)
    slots = counts["rows"] * row_length
    return {**counts, "efficiency": round(counts["tokens"] / slots, 6) if slots else 0.0}


def _groups(rows: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    group: list[np.ndarray] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _row_batch(store, group, row_length, pad_id) -> tuple[pa.RecordBatch, int, int]:
    shape = (len(group), row_length)
    ids, mask, positions = np.full(shape, pad_id, np.int32), np.zeros(shape, np.int8), np.zeros(shape, np.int32)
    documents, lengths = [], []
    for row, members in enumerate(group):
        cursor, sizes = 0, []
        for index in members.tolist():
            tokens, trained = store.document(index)
            if len(tokens) > row_length:
                part = window(trained, row_length)
                tokens, trained = tokens[part], trained[part]
            end = cursor + len(tokens)
            ids[row, cursor:end], mask[row, cursor:end] = tokens, trained
            mask[row, cursor] = 0
            positions[row, cursor:end] = np.arange(len(tokens))
            sizes.append(len(tokens))
            cursor = end
        positions[row, cursor:] = np.arange(row_length - cursor)
        documents.append(store.records[members].tolist())
        lengths.append(sizes)
    used = [sum(sizes) for sizes in lengths]
    fixed = [
        pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), row_length) for values in (ids, mask, positions)
    ]
    columns = [
        *fixed,
        pa.array(used, pa.int32()),
        pa.array(documents, pa.list_(pa.int64())),
        pa.array(lengths, pa.list_(pa.int32())),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema(row_length)), sum(used), int(mask.sum())


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
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._views = {name: [self._view(batch, name) for batch in self._batches] for name in FIXED}
        parts = [batch.column("tokens").to_numpy() for batch in self._batches]
        self.tokens = np.concatenate(parts) if parts else np.empty(0, np.int32)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, name: str, indices: Sequence[int]) -> np.ndarray:
        """Return the rows ``indices`` of ``input_ids``, ``loss_mask`` or ``position_ids``, shape [len, row_length]."""
        views = self._views[name]
        return np.stack([views[batch][row] for batch, row in map(self._locate, indices)])

    @property
    def input_ids(self) -> np.ndarray:
        """All token ids, shape [rows, row_length]; a copy when the file has several batches."""
        return self._whole("input_ids")

    @property
    def loss_mask(self) -> np.ndarray:
        """All loss masks, shape [rows, row_length]; 1 marks a token that is trained."""
        return self._whole("loss_mask")

    @property
    def position_ids(self) -> np.ndarray:
        """All positions, shape [rows, row_length], restarting at 0 in each document and in the padding."""
        return self._whole("position_ids")

    def documents(self, row: int) -> list[Document]:
        """Return the documents of row ``row`` in order."""
        batch, index = self._locate(row)
        records = self._batches[batch].column("documents")[index].as_py()
        lengths = self._batches[batch].column("lengths")[index].as_py()
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        return [Document(*entry) for entry in zip(records, starts, lengths, strict=True)]

    def _locate(self, row: int) -> tuple[int, int]:
        batch = int(np.searchsorted(self._starts, row, side="right")) - 1
        return batch, row - int(self._starts[batch])

    def _view(self, batch: pa.RecordBatch, name: str) -> np.ndarray:
        return batch.column(name).values.to_numpy().reshape(batch.num_rows, self.row_length)

    def _whole(self, name: str) -> np.ndarray:
        views = self._views[name]
        if len(views) == 1:
            return views[0]
        return np.concatenate(views) if views else np.empty((0, self.row_length), np.int32)
