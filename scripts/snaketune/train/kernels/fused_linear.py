"""A linear layer and its LoRA adapter as one autograd function, without intermediate copies of activations.

PEFT computes ``base(x) + B(A(x)) * scaling`` in six operations, most of which allocate a tensor as large as the output.
Here the adapter's contribution is accumulated into the output by the second product, and the backward pass does the
same for the gradient of the input. Saved for it are the input, which neighbouring layers share, and r values per token.

With W the base weight, A = ``down`` [r, in], B = ``up`` [out, r], s = ``scaling`` and G = dL/dy [tokens, out]
(Hu et al. 2021, arXiv:2106.09685):

    y = x Wᵀ + s (x Aᵀ) Bᵀ      dL/dx = G W + s (G B) A      dL/dA = s (G B)ᵀ x      dL/dB = s Gᵀ (x Aᵀ)

With many tokens W + s B A is a smaller matrix than y or dL/dx, and adding the adapter to the weight takes less time
than adding its output: each is then one product with that sum, which is computed for both and never kept.
"""

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch.nn import functional

from snaketune.train.kernels.matrix_products import product

NO_GRADIENTS = (None, None, None)


class _Linear(torch.autograd.Function):
    """``x @ weight.T + bias + scaling * (x @ down.T) @ up.T`` of shape [tokens, out]."""

    @staticmethod
    def forward(ctx, x, weight, bias, down, up, scaling: float):
        out, inner = _multiplied(x, weight, bias, down, up, scaling)
        ctx.scaling = scaling
        # For the frozen base weight no gradient is computed, so the input is saved only for the adapter.
        ctx.save_for_backward(x if _needs_input(ctx.needs_input_grad) else None, weight, down, up, inner)
        return out

    @staticmethod
    def backward(ctx, *upstream):
        x, weight, down, up, inner = ctx.saved_tensors
        needed = ctx.needs_input_grad
        to_x, to_down, to_up = _backward(upstream[0], x, weight, (down, up, inner, ctx.scaling), needed[0])
        to_weight = upstream[0].t() @ x if needed[1] else None
        to_bias = upstream[0].sum(0) if needed[2] else None
        return to_x, to_weight, to_bias, to_down, to_up, None


class _GatedLinear(torch.autograd.Function):
    """The same for ``x = silu(gate) * value``, which the backward pass recomputes instead of saving."""

    @staticmethod
    def forward(ctx, gate, value, weight, bias, down, up, scaling: float):
        out, inner = _multiplied(functional.silu(gate).mul_(value), weight, bias, down, up, scaling)
        ctx.scaling = scaling
        ctx.save_for_backward(gate, value, weight, down, up, inner)
        return out

    @staticmethod
    def backward(ctx, *upstream):
        gate, value, weight, down, up, inner = ctx.saved_tensors
        opened = functional.silu(gate)
        x = opened * value
        to_x, to_down, to_up = _backward(upstream[0], x, weight, (down, up, inner, ctx.scaling), True)
        assert to_x is not None
        to_weight = upstream[0].t() @ x if ctx.needs_input_grad[2] else None
        to_bias = upstream[0].sum(0) if ctx.needs_input_grad[3] else None
        # Both products overwrite buffers that are no longer needed; `to_x` is read for the last time below.
        to_value = opened.mul_(to_x)
        to_gate = torch.ops.aten.silu_backward(to_x.mul_(value), gate)
        return to_gate, to_value, to_weight, to_bias, to_down, to_up, None


def _multiplied(x, weight, bias, down, up, scaling: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the output and the adapter's inner states, shapes [tokens, out] and [tokens, r]."""
    if down is None:
        return product(x, weight, bias), None
    inner = product(x, down)
    if _adds_to_weight(x):
        return product(x, _summed(weight, down, up, scaling), bias), inner
    # In place: beta is 1, so the output becomes out + scaling * inner @ up.T without a second tensor of its size.
    return product(x, weight, bias).addmm_(inner, up.t(), alpha=scaling), inner


def _adds_to_weight(states: torch.Tensor) -> bool:
    """Tell whether a sum of the weight's size, [out, in], is smaller than one of the product's with ``states``.

    The product of inputs [tokens, in] has the shape [tokens, out], that of slopes [tokens, out] the shape [tokens, in].
    """
    return len(states) > states.shape[1]


def _summed(weight, down, up, scaling: float) -> torch.Tensor:
    return torch.addmm(weight, up, down, alpha=scaling)


def _needs_input(needed: tuple[bool, ...]) -> bool:
    """Tell whether the gradient of a weight (base or ``down``) needs the input of the layer."""
    return needed[1] or needed[3]


def _backward(slope, x, weight, adapter, to_input: bool) -> tuple[torch.Tensor | None, ...]:
    """Return the gradients of the input and of the adapter's two matrices."""
    down, up, inner, scaling = adapter
    if down is None:
        return product(slope, weight.t()) if to_input else None, None, None
    # s (G B), shape [tokens, r]: shared by the gradients of the input and of A.
    inner_slope = product(slope, up.t()).mul_(scaling)
    to_x = None
    if to_input and _adds_to_weight(slope):
        to_x = product(slope, _summed(weight, down, up, scaling).t())
    elif to_input:
        to_x = product(slope, weight.t()).addmm_(inner_slope, down)
    # The narrow factor comes first: a product with few columns takes up to twice as long as one with few rows.
    to_up = product(inner.t(), slope.t()).mul_(scaling).t()
    return to_x, product(inner_slope.t(), x.t()), to_up


def adapter_of(module: torch.nn.Module) -> tuple[Any, ...] | None:
    """Return weight, bias, both matrices of the adapter and its scaling; None if the layer computes anything else.

    The matrices are None if there is no adapter or it is disabled.
    """
    if type(module) is torch.nn.Linear:
        return module.weight, module.bias, None, None, 1.0
    if not isinstance(module, LoraLinear) or module.merged:
        return None
    base, active = module.get_base_layer(), [name for name in module.active_adapters if name in module.lora_A]
    if module.disable_adapters or not active:
        return base.weight, base.bias, None, None, 1.0
    # Several active adapters add up; the fused formula has one.
    if len(active) > 1:
        return None
    name = active[0]
    return base.weight, base.bias, module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]


def can_be_fused(module: torch.nn.Module) -> bool:
    """Tell whether a layer is a plain float32 linear layer, alone or with a plain LoRA adapter without dropout."""
    if type(module) is torch.nn.Linear:
        return module.weight.dtype == torch.float32
    if type(module) is not LoraLinear or type(module.get_base_layer()) is not torch.nn.Linear:
        return False
    plain_variant = not any(module.use_dora.values()) and not module.lora_variant and not any(module.lora_bias.values())
    plain_input = all(isinstance(dropout, torch.nn.Identity) for dropout in module.lora_dropout.values())
    return plain_variant and plain_input and all(weight.dtype == torch.float32 for weight in module.parameters())


def fused_linear(module: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """Return a fused forward pass of ``module`` (see :func:`can_be_fused`).

    It falls back to the module's own for extra arguments, merged or several adapters, and reduced precision.
    """
    original = module.forward

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        parts = adapter_of(module)
        if args or kwargs or parts is None or not is_full_precision(x):
            return original(x, *args, **kwargs)
        return _Linear.apply(x.reshape(-1, x.shape[-1]), *parts).view(*x.shape[:-1], len(parts[0]))

    return forward


def is_full_precision(x: torch.Tensor) -> bool:
    """Tell whether products with ``x`` are computed in float32."""
    return x.dtype == torch.float32 and not (x.device.type == "cpu" and torch.is_autocast_enabled("cpu"))


def gated_linear(gate: torch.Tensor, value: torch.Tensor, module: torch.nn.Module) -> torch.Tensor | None:
    """Return ``module(silu(gate) * value)``; None if the module currently computes more than a product."""
    parts = adapter_of(module)
    if parts is None:
        return None
    flat = (gate.reshape(-1, gate.shape[-1]), value.reshape(-1, value.shape[-1]))
    return _GatedLinear.apply(*flat, *parts).view(*gate.shape[:-1], len(parts[0]))
