"""A GGUF file parsed once for all its readers.

transformers parses a GGUF file three times with the package `gguf` (for configuration, tokenizer and weights), with
every string of the vocabulary, and computes the table of tensor names for each module of the model. For a vocabulary of
262,144 tokens this takes minutes. Here the file is parsed once, without numpy's slow slicing of memory maps.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np


class GgufReader(gguf.GGUFReader):
    """The package's reader over a plain array: slicing a ``numpy.memmap`` costs ten times as much."""

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> np.ndarray:
        if "_plain" not in self.__dict__:
            self._plain = self.data.view(np.ndarray)
        # GGUF files may be big-endian: the reader detects the byte order, and views must carry it.
        kind = np.dtype(dtype).newbyteorder(self.byte_order if override_order is None else override_order)
        return np.frombuffer(self._plain, kind, int(count), int(offset)) if count else np.empty(0, kind)

    def value(self, key: str, default: Any = None) -> Any:
        """Return the metadata value of ``key`` as a Python object."""
        field = self.get_field(key)
        return default if field is None else field.contents()


@contextmanager
def parsed_once(file: Path) -> Iterator[GgufReader]:
    """Make transformers use one shared reader of ``file`` inside the block.

    Raises:
        ValueError, KeyError, IndexError: from the package, if it cannot read the file.
    """
    reader = GgufReader(file)
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader = lambda path, mode="r": reader  # type: ignore[assignment, misc]
    gguf.get_tensor_name_map = cache(gguf.get_tensor_name_map)
    try:
        yield reader
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = before  # type: ignore[misc]
