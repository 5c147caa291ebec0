"""A kernel for packed rows that computes one document after the other, for machines without a GPU."""

import torch
from torch.nn.functional import scaled_dot_product_attention


def by_document(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """What torch's varlen_attn computes, one document after the other."""
    left, right = window_size
    assert right == 0
    out = torch.zeros_like(q)
    for start, end in zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], strict=False):
        part = [states[start:end].transpose(0, 1)[None] for states in (q, k, v)]
        places = torch.arange(end - start)
        seen = places[:, None] >= places
        seen &= places[:, None] - places <= left if left >= 0 else True
        if end > start:
            mixed = scaled_dot_product_attention(*part, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
            out[start:end] = mixed[0].transpose(0, 1)
    return out
