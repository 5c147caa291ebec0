"""Token ids on disk: an Arrow folder that is memory-mapped here and that ``datasets.load_from_disk`` opens."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from snaketune.common.atomic import write_json, writing_directory

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.int8())),
        ("length", pa.int32()),
        ("bytes", pa.int32()),
        ("record", pa.int64()),
        ("source", pa.int32()),
    ]
)
DATA_FILE = "data-00000-of-00001.arrow"
_LISTS = {"input_ids": "int32", "loss_mask": "int8"}
_SCALARS = {"length": "int32", "bytes": "int32", "record": "int64", "source": "int32"}


@contextmanager
def writing_tokens(folder: str | Path) -> Iterator[pa.ipc.RecordBatchStreamWriter]:
    """Give a writer of record batches; the folder appears when the block ends without an error."""
    with writing_directory(folder) as partial:
        with pa.OSFile(str(partial / DATA_FILE), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            yield writer
        features: dict[str, dict] = {
            name: {"feature": {"dtype": dtype, "_type": "Value"}, "_type": "List"} for name, dtype in _LISTS.items()
        }
        features |= {name: {"dtype": dtype, "_type": "Value"} for name, dtype in _SCALARS.items()}
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


class TokenStore:
    """Tokenised documents of one split, memory-mapped: columns of scalars as arrays, documents on demand."""

    def __init__(self, folder: str | Path):
        with pa.memory_map(str(Path(folder) / DATA_FILE)) as source:
            self._batches = pa.ipc.open_stream(source).read_all().to_batches()
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self.lengths = self._column("length", np.int32)
        self.bytes = self._column("bytes", np.int32)
        self.records = self._column("record", np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids (int32) and the loss mask (int8) of document ``index``, both of shape [length]."""
        batch_index = int(np.searchsorted(self._starts, index, side="right")) - 1
        batch, row = self._batches[batch_index], index - int(self._starts[batch_index])
        return _row(batch.column(0), row), _row(batch.column(1), row)

    def _column(self, name: str, dtype: type) -> np.ndarray:
        parts = [batch.column(name).to_numpy() for batch in self._batches]
        return np.concatenate(parts) if parts else np.empty(0, dtype)


def _row(column: pa.ListArray, row: int) -> np.ndarray:
    start, end = column.offsets[row].as_py(), column.offsets[row + 1].as_py()
    return column.values.to_numpy()[start:end]
