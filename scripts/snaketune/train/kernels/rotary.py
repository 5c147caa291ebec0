"""Rotary positions as one autograd function on a CPU: three passes over the states instead of seven, nothing saved.

With the halves (a, b) of a head, and cos and sin of the token's angles (Su et al. 2021, arXiv:2104.09864, in the layout
of GPT-NeoX, which transformers uses):

    (a, b) -> (a cos₁ - b sin₁, b cos₂ + a sin₂)
"""

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from snaketune.train.kernels.recognition import same_code

NAME = "apply_rotary_pos_emb"


class _Rotated(torch.autograd.Function):
    """The rotation of ``states``, of any layout; ``cos`` and ``sin`` are broadcast to it and have no gradients."""

    @staticmethod
    def forward(ctx, states, cos, sin):
        ctx.save_for_backward(cos, sin)
        to_first, to_second = sin.chunk(2, -1)
        return _turned(states, cos, (to_first, -1), (to_second, 1))

    @staticmethod
    def backward(ctx, *upstream):
        cos, sin = ctx.saved_tensors
        # The transposed matrix: each sine is that of the other half, with the opposite sign.
        of_first, of_second = sin.chunk(2, -1)
        return _turned(upstream[0], cos, (of_second, 1), (of_first, -1)), None, None


Factor = tuple[torch.Tensor, int]


def _turned(states: torch.Tensor, cos: torch.Tensor, to_first: Factor, to_second: Factor) -> torch.Tensor:
    """Return ``states * cos`` with each half of ``states`` times a factor and its sign added to the other half."""
    out = states * cos
    first, second = states.chunk(2, -1)
    for part, other, (factor, sign) in zip(out.chunk(2, -1), (second, first), (to_first, to_second), strict=True):
        # In place: transformers' rotate_half would make another copy of the states.
        part.addcmul_(other, factor, value=sign)
    return out


def rotate(q, k, cos, sin, unsqueeze_dim: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``q`` and ``k`` rotated, as transformers' ``apply_rotary_pos_emb`` does with the same arguments."""
    # Under autocast or with trained angles the original runs: this path has no casts and no gradient of cos and sin.
    if any(each.dtype != torch.float32 for each in (q, k, cos, sin)) or cos.requires_grad or sin.requires_grad:
        return apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _Rotated.apply(q, cos, sin), _Rotated.apply(k, cos, sin)


def rotates(module: torch.nn.Module) -> bool:
    """Tell whether the module's forward calls a function of the same code as transformers' for Llama."""
    forward = type(module).forward
    if not isinstance(forward, FunctionType) or NAME not in forward.__code__.co_names:
        return False
    return same_code(forward.__globals__.get(NAME), apply_rotary_pos_emb)


def rotating(module: Any, rotate: Callable[..., Any]) -> Callable[..., Any]:
    """Return the module's forward with another rotary function: the same code object with its own globals."""
    forward = type(module).forward
    known = {**forward.__globals__, NAME: rotate}
    # Replacing the name in the module of transformers would change every model of the process, the reference too.
    own = FunctionType(forward.__code__, known, forward.__name__, forward.__defaults__, forward.__closure__)
    own.__kwdefaults__ = forward.__kwdefaults__
    return MethodType(own, module)
