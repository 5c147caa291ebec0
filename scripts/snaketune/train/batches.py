"""Batches of packed rows as tensors, without an attention mask: positions alone keep documents apart."""

from collections.abc import Sequence

import torch

from snaketune.data.rows import PackedRows

IGNORED = -100


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


def with_boundaries(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | int]:
    """Add the document boundaries that FlashAttention's varlen kernels need to a batch.

    With more than one row these kernels would attend across documents without them. The rows are treated as one
    sequence of ``B * T`` tokens; ``cu_seq_lens`` is padded with empty documents to a fixed length, so that shapes
    never change between steps.

    Returns:
        The batch with ``cu_seq_lens_q/k`` (int32, shape [B * T + 1]) and ``max_length_q/k`` (tokens).
    """
    positions = batch["position_ids"]
    total, row_length = positions.numel(), positions.shape[1]
    starts = torch.nonzero(positions.reshape(-1) == 0).flatten().to(torch.int32)
    boundaries = torch.full((total + 1,), total, dtype=torch.int32)
    boundaries[: len(starts)] = starts
    lengths = {"cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries}
    return {**batch, **lengths, "max_length_q": row_length, "max_length_k": row_length}
