"""Kernels that refuse what the real ones refuse, and compute on a CPU what they compute.

The rules are those of torch's own checks (aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp).
"""

import torch
from document_kernel import by_document
from torch.utils._python_dispatch import _disable_current_modes


class StrictFlash:
    """FlashAttention for packed rows, with the signature of ``torch.nn.attention.varlen.varlen_attn``.

    Attributes:
        calls: dtype, number of documents and longest document of each call.
    """

    def __init__(self):
        self.calls = []

    def __call__(self, *states, **options):
        with _disable_current_modes():  # what a kernel looks at inside of it is not a wait of the host
            return self._attend(*states, **options)

    def _attend(self, q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
        for states in (q, k, v):
            if states.dtype not in (torch.float16, torch.bfloat16):
                raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
            if states.dtype != q.dtype:
                raise RuntimeError("query and key must have the same dtype")
            if states.stride(-1) != 1:
                raise RuntimeError("Input tensor must have contiguous last dimension")
            if states.shape[-1] > 256 or states.shape[-1] % 8:
                raise RuntimeError("FlashAttention forward only supports head dimension at most 256, a multiple of 8")
        for boundaries, longest in ((cu_seq_q, max_q), (cu_seq_k, max_k)):
            if boundaries.dtype != torch.int32 or not boundaries.is_contiguous() or boundaries.dim() != 1:
                raise RuntimeError("cu_seqlens must be a contiguous vector of int32")
            # The real kernel does not look: it leaves out what lies beyond.
            lengths = boundaries.diff()
            assert int(boundaries[0]) == 0 and int(boundaries[-1]) == len(q) and int(lengths.min()) >= 0
            assert isinstance(longest, int) and longest >= int(lengths.max())
        if q.shape[1] != k.shape[1] and not enable_gqa:
            raise RuntimeError("Number of heads in key/value must divide number of heads in query")
        self.calls.append((q.dtype, len(cu_seq_q) - 1, max_q))
        found = by_document(
            *(states.float() for states in (q, k, v)),
            cu_seq_q,
            cu_seq_k,
            max_q,
            max_k,
            scale=scale,
            window_size=window_size,
            enable_gqa=enable_gqa,
        )
        return found.to(q.dtype)
