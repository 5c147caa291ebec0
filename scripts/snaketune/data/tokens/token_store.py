"""Token ids on disk: an Arrow folder, memory-mapped here, that ``datasets.load_from_disk`` can open as well.

Masks are stored as one bit per token. The IPC stream format rather than the file format is what ``datasets`` expects.
"""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from snaketune.core.atomic import write_json, writing_directory

TOKENS_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.bool_())),
        ("length", pa.int32()),
        ("bytes", pa.int32()),
        ("record", pa.int64()),
        ("source", pa.int32()),
        ("second", pa.int32()),
        ("plain", pa.bool_()),
        ("first", pa.int32()),
    ]
)
# The rows of reward models also have the margin of each pair.
SCORED_SCHEMA = TOKENS_SCHEMA.append(pa.field("margin", pa.float64()))
DATA_FILE = "data-00000-of-00001.arrow"
_LISTS = {"input_ids": "int32", "loss_mask": "bool"}
_SCALARS = {"length": "int32", "bytes": "int32", "record": "int64", "source": "int32", "second": "int32"}
_SCALARS |= {"plain": "bool", "first": "int32", "margin": "float64"}


@contextmanager
def writing_tokens(folder: str | Path, schema: pa.Schema = TOKENS_SCHEMA) -> Iterator[pa.ipc.RecordBatchStreamWriter]:
    """Yield a writer of record batches; the folder appears once the block ends without an error."""
    with writing_directory(folder) as partial:
        with pa.OSFile(str(partial / DATA_FILE), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            yield writer
        # The two JSON files below, with exactly these keys, make the folder readable by ``datasets``.
        features: dict[str, dict[str, Any]] = {
            name: {"feature": {"dtype": dtype, "_type": "Value"}, "_type": "List"} for name, dtype in _LISTS.items()
        }
        scalars = {name: dtype for name, dtype in _SCALARS.items() if name in schema.names}
        features |= {name: {"dtype": dtype, "_type": "Value"} for name, dtype in scalars.items()}
        write_json(partial / "dataset_info.json", {"features": features})
        write_json(
            partial / "state.json",
            {
                "_data_files": [{"filename": DATA_FILE}],
                "_fingerprint": "snaketune",
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": None,
            },
        )


def mask_array(mask: np.ndarray) -> pa.BooleanArray:
    """Return a loss mask of 0 and 1 (int8) as an Arrow array with one bit per token, least significant bit first."""
    bits = pa.py_buffer(np.packbits(mask.view(np.uint8), bitorder="little"))
    return pa.BooleanArray.from_buffers(pa.bool_(), len(mask), [None, bits])


class TokenStore:
    """Tokenised documents of one split, memory-mapped: scalar columns as arrays, documents on demand.

    Attributes:
        lengths: tokens of each document, int32, shape [documents].
        bytes: UTF-8 bytes of the trained text of each document, int32.
        records: line of each document's record in the split's file, from 0, int64.
        sources: number of each document's source, int32.
        seconds: position at which the second document of a pair, the rejected one, begins; 0 for a single document
            and -1 for a single rejected answer, int32.
        plain: whether each document is plain text, bool.
        firsts: position of the first loss-bearing token of each document, int32.
        margins: by how much the chosen answer of each pair is better, 0 without a margin, float64.
    """

    def __init__(self, folder: str | Path):
        with pa.memory_map(str(Path(folder) / DATA_FILE)) as source:
            batches = pa.ipc.open_stream(source).read_all().to_batches()
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)]).tolist()
        self._offsets = [batch.column(0).offsets.to_numpy() for batch in batches]
        self._ids = [batch.column(0).values.to_numpy() for batch in batches]
        self._masks = [_mask_view(batch.column(1).values) for batch in batches]
        self.lengths = _column(batches, "length", np.int32)
        self.bytes = _column(batches, "bytes", np.int32)
        self.records = _column(batches, "record", np.int64)
        self.sources = _column(batches, "source", np.int32)
        self.seconds = _column(batches, "second", np.int32)
        self.plain = _column(batches, "plain", bool)
        self.firsts = _column(batches, "first", np.int32)
        self.margins = _column(batches, "margin", np.float64)

    def __len__(self) -> int:
        found: int = self._starts[-1]
        return found

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids (int32) and the loss mask (int8) of document ``index``, both of shape [length].

        For a pair, both documents are concatenated. The ids are a view of the memory-mapped file.
        """
        batch = bisect_right(self._starts, index) - 1
        row = index - self._starts[batch]
        start, end = self._offsets[batch][row : row + 2].tolist()
        packed = self._masks[batch]
        if packed.dtype == np.int8:
            return self._ids[batch][start:end], packed[start:end]
        # Only the bytes that hold the document's bits are unpacked; the first bits may belong to its neighbour.
        bits = np.unpackbits(packed[start >> 3 : (end + 7) >> 3], bitorder="little")
        skip = start & 7
        return self._ids[batch][start:end], bits[skip : skip + end - start].view(np.int8)


def _mask_view(values: pa.Array) -> np.ndarray:
    """Return the packed bits of a mask (uint8), or the mask itself if it is stored as one byte per token (int8)."""
    if values.type == pa.int8():
        found: np.ndarray = values.to_numpy()
        return found
    return np.frombuffer(values.buffers()[1] or b"", np.uint8)


def _column(batches: list[pa.RecordBatch], name: str, dtype: type) -> np.ndarray:
    parts = [
        batch.column(name).to_numpy(zero_copy_only=False)
        if name in batch.schema.names
        else np.zeros(batch.num_rows, dtype)
        for batch in batches
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype)
