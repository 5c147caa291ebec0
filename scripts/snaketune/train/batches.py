"""Batches of packed rows as tensors, without an attention mask: positions alone keep documents apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from snaketune.data.rows import PackedRows

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Layout:
    """What a batch holds besides ids, labels and positions, and whether its shapes are always the same.

    Attributes:
        boundaries: give the boundaries of the documents, for kernels that need them.
        most_documents: most documents in a row, padding included; fixes the number of boundaries. None gives as many
            as there are.
        places: give the places that a loss is taken at, so that finding them does not wait for the GPU.
        rows: fill an incomplete batch up to this many rows with padding, for compiled layers.
    """

    boundaries: bool = False
    most_documents: int | None = None
    places: bool = False
    rows: int = 0


def arrange(rows: PackedRows, indices: Sequence[int], layout: Layout) -> dict[str, Any]:
    """Return the batch of the rows ``indices`` with all that ``layout`` asks for."""
    batch: dict[str, Any] = filled(collate(rows, indices), layout.rows)
    batch = with_boundaries(batch, layout.most_documents) if layout.boundaries else batch
    return batch | ({"loss_places": loss_places(batch["labels"])} if layout.places else {})


def collate(rows: PackedRows, indices: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the batch of the rows ``indices``.

    There is no ``attention_mask`` on purpose: transformers isolates packed documents by restarting
    ``position_ids`` only when it gets no mask and no KV cache; an all-ones mask silently mixes them.

    Returns:
        ``input_ids``, ``labels`` (-100 where no loss is taken) and ``position_ids``, int64, shape [len, row_length].
    """
    ids = torch.from_numpy(rows.take("input_ids", indices).astype("int64"))
    trained = torch.from_numpy(rows.take("loss_mask", indices)).bool()
    positions = torch.from_numpy(rows.take("position_ids", indices).astype("int64"))
    return {"input_ids": ids, "labels": ids.masked_fill(~trained, IGNORED), "position_ids": positions}


def filled(batch: dict[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    """Add rows of nothing but padding until there are ``rows``: they carry no loss and keep shapes constant."""
    present, length = batch["input_ids"].shape
    missing = max(0, rows - present)
    if not missing:
        return batch
    padding = {
        "input_ids": torch.zeros(missing, length, dtype=torch.int64),
        "labels": torch.full((missing, length), IGNORED),
        "position_ids": torch.arange(length).expand(missing, -1),
    }
    return {name: torch.cat([values, padding[name]]) for name, values in batch.items()}


def with_boundaries(batch: dict[str, torch.Tensor], most_documents: int | None = None) -> dict[str, Any]:
    """Add the document boundaries that FlashAttention's varlen kernels need to a batch.

    With more than one row these kernels would attend across documents without them. The rows are treated as one
    sequence of ``rows * T`` tokens. With ``most_documents`` per row ``cu_seq_lens`` is padded with empty documents
    to a fixed length, so that shapes never change between steps; the kernel launches blocks for those, too, which
    is why their number is kept near that of the real ones.

    Returns:
        The batch with ``cu_seq_lens_q/k`` (int32, shape [documents + 1]) and ``max_length_q/k`` (tokens).
    """
    positions = batch["position_ids"]
    total, row_length = positions.numel(), positions.shape[1]
    starts = torch.nonzero(positions.reshape(-1) == 0).flatten().to(torch.int32)
    count = len(starts) if most_documents is None else positions.shape[0] * most_documents
    boundaries = torch.full((count + 1,), total, dtype=torch.int32)
    boundaries[: len(starts)] = starts
    lengths = {"cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries}
    return {**batch, **lengths, "max_length_q": row_length, "max_length_k": row_length}


def loss_places(labels: torch.Tensor) -> torch.Tensor:
    """Return where a loss is taken: flat places of the tokens whose next token is trained, int64, shape [n]."""
    trained = torch.zeros_like(labels, dtype=torch.bool)
    trained[:, :-1] = labels[:, 1:] != IGNORED
    return torch.nonzero(trained.reshape(-1)).flatten()


def most_documents(rows: PackedRows) -> int:
    """Return the most documents in any row, a padding tail counted as one."""
    counted = range(0, len(rows), 256)
    most = [rows.take("position_ids", range(start, min(start + 256, len(rows)))) for start in counted]
    return max((int((positions == 0).sum(1).max()) for positions in most), default=1)
