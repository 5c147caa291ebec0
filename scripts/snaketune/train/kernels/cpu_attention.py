"""Attention over packed rows on a CPU, document by document.

It needs no mask and computes no products between documents. Documents may share prefixes. The arguments are those of
``torch.nn.attention.varlen.varlen_attn``, so that packed rows take the same path on every device.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch.nn import functional

Span = tuple[int, int]
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
        boundaries_of_keys: the same, unless documents share prefixes (:mod:`snaketune.train.shared_prefixes`): the
            boundaries are then those of segments, and entry i + 1 is where the queries that see segment i end.
        longest: tokens of the longest document.
        longest_of_keys: the same.
        scale: of the products; one over the root of the width by default.
        window_size: how many tokens before its own (-1: all) and after it a token sees; none after it.
        enable_gqa: whether neighbouring query heads share a key head; the kernel detects that itself.

    Raises:
        ValueError: if documents share prefixes and the window cuts them, which is not computed.
    """
    segments = _segments(boundaries.tolist(), boundaries_of_keys.tolist())
    reach = window_size[0]
    is_shared = any(until > end for _, end, until in segments)
    most = longest if is_shared else max((end - start for start, end, _ in segments), default=0)
    # A window at least as long as the longest document never cuts anything, and the kernel without a mask is faster.
    if not 0 <= reach < most - 1:
        return _Documents.apply(query, key, value, segments, scale)
    if is_shared:
        raise ValueError("documents of a batch share prefixes, which sliding-window attention does not support")
    return _in_windows(query, key, value, [segment[:2] for segment in segments], scale, reach, enable_gqa)


def _segments(edges: list[int], seen_until: list[int]) -> list[tuple[int, int, int]]:
    """Return first token and end of each segment, and the end of the queries that see it."""
    # Trailing boundaries are equal where a batch is padded with empty documents.
    return [
        (start, end, until) for (start, end), until in zip(pairwise(edges), seen_until[1:], strict=True) if end > start
    ]


class _Documents(torch.autograd.Function):
    """Attention of each segment to itself, and of those below it in the prefix tree to it, by torch's own kernel.

    Attention to several segments is the mean of that to each, weighted by their sums of exponentials. The backward
    kernel recomputes each pair's weight from the sum over all segments, so that gradients simply add up.
    """

    @staticmethod
    def forward(ctx, query, key, value, segments, scale):
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        # Log-sum-exp of each query's scores, from which the backward pass recomputes the attention weights.
        sums = query.new_empty(query.shape[:2], dtype=torch.float32)
        for start, end, _ in segments:
            out[start:end], sums[start:end] = _attended(query, key, value, (start, end), (start, end), scale)
        for start, end, until in _prefixes(segments):
            made, logs = _attended(query, key, value, (end, until), (start, end), scale)
            share = torch.sigmoid(logs - sums[end:until])[..., None]
            out[end:until] = out[end:until].float().lerp(made.float(), share)
            sums[end:until] = torch.logaddexp(sums[end:until], logs)
        ctx.segments, ctx.scale = segments, scale
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx, *upstream):
        query, key, value, out, sums = ctx.saved_tensors
        known = (upstream[0], query, key, value, out, sums)
        # Empty rather than zeros: the segments cover every token.
        slopes = tuple(torch.empty_like(states) for states in (query, key, value))
        for start, end, _ in ctx.segments:
            for slope, part in zip(slopes, _slopes(known, (start, end), (start, end), ctx.scale), strict=True):
                slope[start:end] = part
        for start, end, until in _prefixes(ctx.segments):
            to_query, to_key, to_value = _slopes(known, (end, until), (start, end), ctx.scale)
            slopes[0][end:until] += to_query
            slopes[1][start:end] += to_key
            slopes[2][start:end] += to_value
        return *slopes, None, None


def _prefixes(segments: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    return [segment for segment in segments if segment[2] > segment[1]]


def _attended(query, key, value, queries: Span, keys: Span, scale) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention of some queries to some keys, causal if they are the same tokens, and its log-sum-exp."""
    parts = (_of_kernel(states[slice(*span)]) for states, span in ((query, queries), (key, keys), (value, keys)))
    made, logs = _forward(*parts, 0.0, queries == keys, attn_mask=None, scale=scale)
    return made[0].transpose(0, 1), logs[0].t()


def _slopes(known, queries: Span, keys: Span, scale) -> Iterator[torch.Tensor]:
    """Yield the gradients with respect to these queries, keys and values that come from their pairs."""
    spans = (queries, queries, keys, keys, queries)
    parts = [_of_kernel(states[slice(*span)]) for states, span in zip(known[:-1], spans, strict=True)]
    sums = known[-1][slice(*queries)].t()[None]
    for part in _backward(*parts, sums, 0.0, queries == keys, attn_mask=None, scale=scale):
        yield part[0].transpose(0, 1)


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
