"""What every case of `benchmarks/train.py` trains on: one shape, and documents of real lengths."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

# Lengths of instruction data: half of the documents have 266 tokens or fewer, 5% more than 1,174, the mean is 400.
MEAN_TOKENS, SPREAD = 400, 0.903
SHORTEST = 8
# Tokens before the answer, as a share of the document, and bytes per token where a file holds text.
PROMPT_SHARE, BYTES_PER_TOKEN = 0.4, 4
LONGEST, ROW_LENGTH = 2048, 4096
PAD = 0

SHAPES: dict[str, dict[str, Any]] = {
    # A head that is a quarter of the linear parameters, as in Llama 3.2 1B; 135m is SmolLM2 135M.
    "tiny": {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "quick": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2,
              "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "135m": {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    "1b": {"vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True},
    "8b": {"vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Workload:
    """What is the same in all cases.

    Attributes:
        shape: name in :data:`SHAPES`.
        documents: trained documents; ``held_out`` more are scored before and after.
        scale: all lengths (documents, padding, rows) are the real ones times this.
        longest: documents are cut to this many tokens, and scripts that pad do so up to it.
        row_length: tokens of a packed row.
        warmup: optimizer steps before the clock starts.
        lengths: file of lengths instead of drawn ones, or "".
        threads: CPU threads.
        model: folder of a real model instead of random weights of a shape, or "".
        texts: file of real documents (:meth:`Texts.write`) instead of made-up ones, or "".
    """

    shape: str
    documents: int
    held_out: int
    scale: float
    longest: int
    row_length: int
    warmup: int
    learning_rate: float
    seed: int
    threads: int
    lengths: str = ""
    model: str = ""
    texts: str = ""

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary."""
        return model_config(self).vocab_size

    @property
    def mean(self) -> float:
        """Mean tokens of the drawn documents before they are cut."""
        return MEAN_TOKENS * self.scale


class Corpus:
    """Made-up documents whose tokens follow Zipf's law, so that a loss can fall: what packing calls a store.

    Attributes:
        lengths: tokens of each document, shape [documents].
        records: their numbers, shape [documents].
        seconds: where the second document of a pair begins: 0, there are none, shape [documents].
    """

    def __init__(self, lengths: np.ndarray, vocab_size: int, seed: int):
        generator = np.random.default_rng(seed)
        ranks = np.arange(1, vocab_size)
        chances = 1 / (ranks + 2)
        self.lengths, self.records = lengths, np.arange(len(lengths))
        self.seconds = np.zeros(len(lengths), np.int32)
        self._offsets = np.cumsum([0, *lengths.tolist()])
        self._ids = generator.choice(ranks, int(lengths.sum()), p=chances / chances.sum()).astype(np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.lengths.sum())

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids (int32) and the loss mask (int8) of document ``index``, both of shape [length]."""
        ids = self._ids[self._offsets[index] : self._offsets[index + 1]]
        mask = (np.arange(len(ids)) >= max(1, math.floor(PROMPT_SHARE * len(ids)))).astype(np.int8)
        return ids, mask


class Texts:
    """Tokenised documents with their loss masks, read from a file: what packing calls a store, as :class:`Corpus`."""

    def __init__(self, documents: Sequence[tuple[np.ndarray, np.ndarray]]):
        self._documents = documents
        self.lengths = np.array([len(ids) for ids, _ in documents], np.int32)
        self.records, self.seconds = np.arange(len(documents)), np.zeros(len(documents), np.int32)

    def __len__(self) -> int:
        return len(self._documents)

    @cached_property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.lengths.sum())

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids (int32) and the loss mask (int8) of document ``index``, both of shape [length]."""
        return self._documents[index]

    def write(self, path: Path) -> None:
        """Write all documents into one file."""
        ids, masks = (np.concatenate(parts) for parts in zip(*self._documents, strict=True))
        np.savez(path, ids=ids, masks=masks, lengths=self.lengths)

    @classmethod
    def read(cls, path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the documents that :meth:`write` wrote."""
        with np.load(path) as file:
            edges = np.cumsum(file["lengths"])[:-1]
            return list(zip(np.split(file["ids"], edges), np.split(file["masks"], edges), strict=True))


def model_config(workload: Workload) -> Any:
    """Return the configuration of the model that is trained."""
    from transformers import AutoConfig, LlamaConfig

    if workload.model:
        return AutoConfig.from_pretrained(workload.model, local_files_only=True)
    positions = max(workload.row_length, workload.longest)
    special = {"pad_token_id": PAD, "bos_token_id": None, "eos_token_id": None}
    return LlamaConfig(**SHAPES[workload.shape], **special, max_position_embeddings=positions)


def corpora(workload: Workload) -> tuple[Any, Any]:
    """Return the trained and the held-out documents."""
    if workload.texts:
        documents = Texts.read(Path(workload.texts))
        return Texts(documents[: workload.documents]), Texts(documents[workload.documents :])
    lengths = document_lengths(workload)
    vocab_size = SHAPES[workload.shape]["vocab_size"]
    trained = Corpus(lengths[: workload.documents], vocab_size, workload.seed)
    return trained, Corpus(lengths[workload.documents :], vocab_size, workload.seed + 1)


def document_lengths(workload: Workload) -> np.ndarray:
    """Return the lengths of all documents in tokens: lognormal, or from the file, cut to ``longest``."""
    generator = np.random.default_rng(workload.seed)
    count = workload.documents + workload.held_out
    if workload.lengths:
        found = np.asarray(_lengths_in(Path(workload.lengths)), np.float64)
        drawn = found[generator.integers(0, len(found), count)] * workload.scale
    else:
        drawn = generator.lognormal(math.log(workload.mean) - SPREAD**2 / 2, SPREAD, count)
    return np.clip(np.rint(drawn), min(SHORTEST, workload.longest), workload.longest).astype(np.int32)


def _lengths_in(path: Path) -> Sequence[float]:
    with path.open(encoding="utf-8") as lines:
        found = [_length_of(json.loads(line)) for line in lines if line.strip()]
    if not found:
        raise SystemExit(f"--lengths: {path} has no lines: give a file of numbers or of JSON records.")
    return found


def _length_of(value: Any) -> float:
    """Return the tokens of a line: a number, a record's ``length`` or ``input_ids``, else its text at 4 bytes each."""
    if isinstance(value, int | float):
        return value
    if isinstance(value, dict) and "length" in value:
        return value["length"]
    if isinstance(value, dict) and "input_ids" in value:
        return len(value["input_ids"])
    return _text_bytes(value) / BYTES_PER_TOKEN


def _text_bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, dict | list):
        return sum(_text_bytes(part) for part in (value.values() if isinstance(value, dict) else value))
    return 0
