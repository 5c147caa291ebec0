"""Attention over packed rows on a CPU, document by document.

It needs no mask and computes no products between documents. The arguments are those of
``torch.nn.attention.varlen.varlen_attn``, so that packed rows take the same path on every device.
"""

from itertools import pairwise

import torch
from torch.nn import functional

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend_by_document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    boundaries_of_keys: torch.Tensor,
    longest: int,
    longest_of_keys: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, 0),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Return causal attention within documents, shape [tokens, heads, width].

    Args:
        query: shape [tokens, heads, width].
        key: the same; it may have fewer heads.
        value: likewise.
        boundaries: first token of each document, and the end of the last, int32, shape [documents + 1].
        boundaries_of_keys: the same.
        longest: tokens of the longest document.
        longest_of_keys: the same.
        scale: of the products; one over the root of the width by default.
        window_size: how many tokens before its own (-1: all) and after it a token sees; none after it.
        enable_gqa: whether neighbouring query heads share a key head; the kernel detects that itself.
    """
    edges = boundaries.tolist()
    # Trailing boundaries are equal where a batch is padded with empty documents.
    documents = [(start, end) for start, end in pairwise(edges) if end > start]
    reach = window_size[0]
    # A window at least as long as the longest document never cuts anything, and the kernel without a mask is faster.
    if 0 <= reach < max((end - start for start, end in documents), default=0) - 1:
        return _in_windows(query, key, value, documents, scale, reach, enable_gqa)
    return _Documents.apply(query, key, value, documents, scale)


class _Documents(torch.autograd.Function):
    """Attention of each document by torch's own kernel; results are written into one tensor."""

    @staticmethod
    def forward(ctx, query, key, value, documents, scale):
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        # Log-sum-exp of each query's scores, from which the backward pass recomputes the attention weights.
        sums = query.new_empty(query.shape[:2], dtype=torch.float32)
        for start, end in documents:
            parts = (_of_kernel(states[start:end]) for states in (query, key, value))
            made, logs = _forward(*parts, 0.0, True, attn_mask=None, scale=scale)
            out[start:end], sums[start:end] = made[0].transpose(0, 1), logs[0].t()
        ctx.documents, ctx.scale = documents, scale
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx, *upstream):
        query, key, value, out, sums = ctx.saved_tensors
        # Empty rather than zeros: the documents cover every token.
        slopes = tuple(torch.empty_like(states) for states in (query, key, value))
        for start, end in ctx.documents:
            parts = [_of_kernel(states[start:end]) for states in (upstream[0], query, key, value, out)]
            made = _backward(*parts, sums[start:end].t()[None], 0.0, True, attn_mask=None, scale=ctx.scale)
            for slope, part in zip(slopes, made, strict=True):
                slope[start:end] = part[0].transpose(0, 1)
        return *slopes, None, None


def _of_kernel(states: torch.Tensor) -> torch.Tensor:
    """Turn [tokens, heads, width] into [1, heads, tokens, width]."""
    return states.transpose(0, 1)[None]


def _in_windows(query, key, value, documents, scale, reach: int, enable_gqa: bool) -> torch.Tensor:
    """Attend to the last ``reach`` tokens and the query's own only, which needs a mask as large as a document."""
    out = []
    lengths = [end - start for start, end in documents]
    for parts in zip(*(states.split(lengths) for states in (query, key, value)), strict=True):
        places = torch.arange(len(parts[0]), device=query.device)
        distance = places[:, None] - places
        seen = (distance >= 0) & (distance <= reach)
        own, others, values = map(_of_kernel, parts)
        made = functional.scaled_dot_product_attention(own, others, values, seen, scale=scale, enable_gqa=enable_gqa)
        out.append(made[0].transpose(0, 1))
    return torch.cat(out)
