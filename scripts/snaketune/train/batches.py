"""Batches of packed rows as tensors, without an attention mask: documents are separated by their positions alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.shared_prefixes import PrefixTree, prefix_tree

IGNORED = -100
# Argument of transformers' models: the documents' first tokens, and the end of the last one.
BOUNDARIES = "cu_seq_lens_q"
# Document counts that batches are padded to: multiples of the step, this many standard deviations above the mean.
SLOT_STEP, USUAL_DEVIATIONS = 8, 4.0
# A dense row is padded to a multiple of this many tokens: CPU kernels are prepared once per shape.
DENSE_STEP = 32


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """What a batch holds besides ids, labels and positions, and which of its shapes are fixed.

    Attributes:
        boundaries: add the document boundaries, for kernels that need them.
        slots: document counts, ascending, to one of which a batch is padded with empty documents, so that compiled
            layers see few shapes; () pads nothing.
        longest: tokens of the longest document, a constant for compiled layers; 0 takes the batch's own.
        places: add the positions that carry loss, so that finding them does not synchronise with the GPU.
        rows: pad an incomplete batch to this many rows, for compiled layers.
        dense: put the tokens of all rows into one row, so that no padding is computed.
        shares_prefixes: keep the first tokens that documents of a dense batch have in common once.
    """

    boundaries: bool = False
    slots: tuple[int, ...] = ()
    longest: int = 0
    places: bool = False
    rows: int = 0
    dense: bool = False
    shares_prefixes: bool = False


def arrange(rows: PackedRows, indices: Sequence[int], layout: BatchLayout) -> dict[str, Any]:
    """Return the batch of the rows ``indices`` in the given ``layout``."""
    batch: dict[str, Any] = collate(rows, indices)
    if layout.dense and len(indices):
        batch = dense(batch, torch.from_numpy(rows.tokens[indices]).long(), layout.shares_prefixes)
    else:
        batch = filled(batch, layout.rows, layout.longest)
    if layout.boundaries and BOUNDARIES not in batch:
        batch = with_boundaries(batch, layout.slots, layout.longest)
    return batch | ({"loss_places": loss_places(batch["labels"])} if layout.places else {})


def collate(rows: PackedRows, indices: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the batch of the rows ``indices``.

    The batch has no ``attention_mask`` on purpose: transformers separates packed documents by the restarts of
    ``position_ids`` only if it gets neither a mask nor a KV cache. An all-ones mask silently mixes the documents.

    Returns:
        ``input_ids``, ``labels`` (-100 where no loss is taken) and ``position_ids``, int64, shape [len, row_length].
    """
    # Stored as int32, which halves the file; embeddings and the loss take int64 indices.
    ids = torch.from_numpy(rows.take("input_ids", indices).astype("int64"))
    trained = torch.from_numpy(rows.take("loss_mask", indices)).bool()
    positions = torch.from_numpy(rows.take("position_ids", indices).astype("int64"))
    return {"input_ids": ids, "labels": ids.masked_fill(~trained, IGNORED), "position_ids": positions}


def dense(batch: dict[str, torch.Tensor], tokens: torch.Tensor, shares_prefixes: bool = False) -> dict[str, Any]:
    """Join the first ``tokens`` (int64, shape [rows]) of each row into one row, shape [1, total].

    Only the end is padded, to a multiple of ``DENSE_STEP``. With ``shares_prefixes`` the first tokens that documents
    have in common are kept once, and the batch holds the boundaries of what is left, see :func:`with_boundaries`.
    """
    kept = torch.arange(batch["input_ids"].shape[1]) < tokens[:, None]
    # The shifted loss would otherwise predict a row's first token from the last token of the row before.
    labels = batch["labels"].clone()
    labels[:, 0] = IGNORED
    joined = {name: values[kept] for name, values in (batch | {"labels": labels}).items()}
    tree = _tree(joined) if shares_prefixes else None
    if tree is not None:
        order = torch.from_numpy(tree.kept())
        joined = {name: values[order] for name, values in joined.items()}
    padded = _padded(joined, kept.numel())
    if tree is None:
        return padded
    return padded | _boundaries_of(tree, padded["labels"].numel(), int(joined["position_ids"].max()) + 1)


def _padded(joined: dict[str, torch.Tensor], most: int) -> dict[str, torch.Tensor]:
    """Return the tokens as a row, padded to a multiple of ``DENSE_STEP`` unless that is more than ``most``."""
    total = len(joined["input_ids"])
    missing = min(-total % DENSE_STEP, most - total)
    padding = {
        "input_ids": torch.zeros(missing, dtype=torch.int64),
        "labels": torch.full((missing,), IGNORED),
        # Padding gets positions from 0, which makes it a document of its own.
        "position_ids": torch.arange(missing),
    }
    return {name: torch.cat([values, padding[name]])[None] for name, values in joined.items()}


def _tree(joined: dict[str, torch.Tensor]) -> PrefixTree | None:
    ids, positions, labels = (joined[name].numpy() for name in ("input_ids", "position_ids", "labels"))
    return prefix_tree(ids, positions, labels != IGNORED)


def _boundaries_of(tree: PrefixTree, total: int, longest: int) -> dict[str, Any]:
    """Return the boundaries of a row of ``total`` tokens whose documents share prefixes; padding is the last segment.

    Those of the keys say where the queries that see a segment end. Without shared prefixes both would be the same.
    """
    padding = np.full(int(total > tree.size), total, np.int32)
    own, seen = (torch.from_numpy(np.concatenate([edges, padding])) for edges in tree.boundaries())
    return _boundaries(own, seen, longest)


def filled(batch: dict[str, torch.Tensor], rows: int, longest: int = 0) -> dict[str, torch.Tensor]:
    """Append padding rows until there are ``rows``: they carry no loss and keep shapes constant.

    Their documents are at most ``longest`` tokens long; with 0 each row is one document.
    """
    present, length = batch["input_ids"].shape
    missing = max(0, rows - present)
    if not missing:
        return batch
    padding = {
        "input_ids": torch.zeros(missing, length, dtype=torch.int64),
        "labels": torch.full((missing, length), IGNORED),
        "position_ids": (torch.arange(length) % (longest or length)).expand(missing, -1),
    }
    return {name: torch.cat([values, padding[name]]) for name, values in batch.items()}


def with_boundaries(batch: dict[str, torch.Tensor], slots: Sequence[int] = (), longest: int = 0) -> dict[str, Any]:
    """Add the document boundaries that FlashAttention's varlen kernels need to a batch.

    The rows are treated as one sequence of ``rows * T`` tokens. With ``slots`` the boundaries are padded with empty
    documents to the first of these counts that suffices.

    Returns:
        The batch with ``cu_seq_lens_q/k`` (int32, shape [documents + 1]) and ``max_length_q/k`` (tokens).
    """
    positions = batch["position_ids"]
    total = positions.numel()
    # Every document starts at position 0, each row too. Without these boundaries transformers would derive them only
    # for a single row, and a batch of several would attend across documents.
    starts = torch.nonzero(positions.reshape(-1) == 0).flatten().to(torch.int32)
    count = next((slot for slot in slots if slot >= len(starts)), len(starts))
    # Trailing entries equal to `total` are empty documents. Slots and `longest` have a price: the kernel launches
    # blocks for each document, empty ones included, as many as the longest would need, and its backward pass keeps
    # 128 rows of float32 for each.
    boundaries = torch.full((count + 1,), total, dtype=torch.int32)
    boundaries[: len(starts)] = starts
    most = longest or int(positions.max()) + 1
    return batch | _boundaries(boundaries, boundaries, most)


def _boundaries(of_queries: torch.Tensor, of_keys: torch.Tensor, longest: int) -> dict[str, Any]:
    return {BOUNDARIES: of_queries, "cu_seq_lens_k": of_keys, "max_length_q": longest, "max_length_k": longest}


def loss_places(labels: torch.Tensor) -> torch.Tensor:
    """Return the flat positions that carry loss, those whose next token is trained, int64, shape [n]."""
    trained = torch.zeros_like(labels, dtype=torch.bool)
    # The state at position t predicts the token at t + 1, so the loss of a label belongs to the position before it.
    trained[:, :-1] = labels[:, 1:] != IGNORED
    return torch.nonzero(trained.reshape(-1)).flatten()


@dataclass(frozen=True, slots=True)
class DocumentShape:
    """Number and length of the documents in packed rows; padding at the end of a row counts as a document.

    Attributes:
        counts: documents of each row, int64, shape [rows].
        longest: tokens of the longest document.
    """

    counts: np.ndarray
    longest: int

    def slots(self, rows: int) -> tuple[int, ...]:
        """Return the document counts to pad a batch of ``rows`` rows to: one that nearly always suffices, and the most.

        The rows of a batch are drawn at random, so its document count is close to normally distributed: four standard
        deviations above the mean are exceeded once in about thirty thousand batches.
        """
        if not len(self.counts):
            return ()
        most = int(self.counts.max()) * rows
        usual = self.counts.mean() * rows + USUAL_DEVIATIONS * self.counts.std() * rows**0.5
        return tuple(sorted({min(-(-int(usual) // SLOT_STEP) * SLOT_STEP, most), most}))


def document_shape(rows: PackedRows) -> DocumentShape:
    """Return how many documents the rows have and how long the longest is."""
    parts = (rows.take("position_ids", range(at, min(at + 256, len(rows)))) for at in range(0, len(rows), 256))
    found = [((positions == 0).sum(1), int(positions.max()) + 1) for positions in parts]
    counts = np.concatenate([count for count, _ in found]) if found else np.zeros(0, np.int64)
    return DocumentShape(counts, max((longest for _, longest in found), default=1))
