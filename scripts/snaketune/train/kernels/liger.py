"""Fused kernels of liger-kernel (Hsu et al. 2024, arXiv:2410.10989), used where they match the model's own results.

RMSNorm, the gate of SwiGLU and rotary embeddings become one kernel each instead of many small ones, and save less for
the backward pass. They replace the ``forward`` of single modules, because liger's own patches replace functions of
transformers for the whole process. Its fused cross-entropy is not used: by TRL's published figures it takes more than
twice the time of one large product in bfloat16, of which ours computes chunks
(:mod:`snaketune.train.kernels.chunked_cross_entropy`). Compiled layers need none of them: Inductor fuses the same.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from snaketune.core.errors import ConfigError
from snaketune.model.architecture import body_of
from snaketune.settings.training_slices import TrainingSlice
from snaketune.train.device import Device, is_exact, is_sharded
from snaketune.train.kernels.attention import given_to
from snaketune.train.kernels.fused_layers import ACTIVATIONS
from snaketune.train.kernels.recognition import computes_as
from snaketune.train.kernels.rotary import NAME as ROTARY
from snaketune.train.kernels.rotary import rotates, rotating

# Relative tolerance of hidden states and gradients against the model's own.
STATES_FLOAT32, STATES_HALF = 1e-4, 2e-2
GRADIENTS_PER_STATE = 3

Swapped = list[tuple[Any, Any]]


def use_liger(model: Any, cfg: TrainingSlice, device: Device, is_compiled: bool) -> tuple[int, str | None]:
    """Install the kernels in supported layers; return how many, and why none if some might be expected.

    Call it under the mixed precision of training.

    Args:
        model: with its adapter on it, on its device.
        cfg: the ``train`` and ``model`` sections.
        device: where the model is.
        is_compiled: whether its layers are compiled.

    Raises:
        ConfigError: if ``train.use_liger_kernel: true`` is not possible.
    """
    setting = cfg["train"]["use_liger_kernel"]
    if setting is False:
        return 0, None
    obstacle = _obstacle(cfg, device, is_compiled)
    if obstacle is None:
        expected = _sample(model)
        swapped = _swap(model)
        apart = _apart(expected, _sample(model)) if swapped else "the model has no layers that they support"
        apart = apart or _rotary_apart(swapped, model)
        if not apart:
            return len(swapped), None
        _undo(swapped)
        obstacle = apart
    if setting is True:
        raise ConfigError(f"train.use_liger_kernel: true is not possible on this machine ({obstacle}): set it to auto.")
    is_expected = importlib.util.find_spec("liger_kernel") and not device.is_cpu and not is_compiled
    return 0, f"liger kernels are not used, because {obstacle}" if is_expected else None


def _obstacle(cfg: TrainingSlice, device: Device, is_compiled: bool) -> str | None:
    if device.is_cpu:
        return "they need a GPU"
    if importlib.util.find_spec("liger_kernel") is None:
        return "the package is not installed: pip install -r envs/extras/liger.txt -c constraints.txt"
    if is_compiled:
        return "compiled layers are fused already"
    return "weights are sharded" if is_sharded(cfg) else None


def _swap(model: Any) -> Swapped:
    """Install kernels in the supported modules of ``model``; return these with their instance's previous forward."""
    swapped = []
    for module in model.modules():
        if forward := _forward(module):
            swapped.append((module, module.__dict__.get("forward")))
            module.forward = forward
    return swapped


def _undo(swapped: Swapped) -> None:
    for module, forward in swapped:
        del module.forward
        if forward is not None:
            module.forward = forward


def _forward(module: Any) -> Callable[..., Any] | None:
    from liger_kernel.ops import LigerRMSNormFunction, LigerRopeFunction, LigerSiLUMulFunction

    if computes_as(module, LlamaRMSNorm):
        return functools.partial(_normalized, LigerRMSNormFunction, module)
    if computes_as(module, LlamaMLP) and type(module.act_fn) in ACTIVATIONS:
        return functools.partial(_gated, LigerSiLUMulFunction, module)
    return rotating(module, _rotary(LigerRopeFunction)) if rotates(module) else None


def _normalized(kernel: Any, module: Any, states: torch.Tensor) -> torch.Tensor:
    if states.dtype != module.weight.dtype:  # leave type promotion to torch
        return type(module).forward(module, states)
    # Not in place: a residual connection may need the upstream gradient, too.
    return kernel.apply(states, module.weight, module.variance_epsilon, 0.0, "llama", False)


def _gated(kernel: Any, module: Any, x: torch.Tensor) -> torch.Tensor:
    return module.down_proj(kernel.apply(module.gate_proj(x), module.up_proj(x)))


def _rotary(kernel: Any) -> Callable[..., Any]:
    def rotate(q, k, cos, sin, unsqueeze_dim: int = 1):
        return kernel.apply(q, k, cos, sin, None, unsqueeze_dim)

    return rotate


def _sample(model: Any, lengths: tuple[int, int] = (13, 8)) -> list[torch.Tensor]:
    """Return the hidden states of two documents, and gradients of the embedded tokens and of trained norms."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    was_training, leaves = base.training, []

    def cut(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    handle = base.get_input_embeddings().register_forward_hook(cut)
    try:
        states = body_of(base.eval())(**_documents(base, lengths), use_cache=False).last_hidden_state
    finally:
        handle.remove()
        base.train(was_training)
    norms = [
        module.weight for module in base.modules() if computes_as(module, LlamaRMSNorm) and module.weight.requires_grad
    ]
    direction = torch.arange(states.numel(), device=states.device, dtype=torch.float32).view_as(states).cos()
    gradients = torch.autograd.grad((states.float() * direction).sum(), [*leaves, *norms])
    return [states.detach(), *gradients]


def _documents(base: Any, lengths: tuple[int, int]) -> dict[str, Any]:
    ids = (torch.arange(sum(lengths)) * 13 + 2) % base.config.get_text_config().vocab_size
    positions = torch.cat([torch.arange(length) for length in lengths])
    return given_to(base, {"input_ids": ids[None], "position_ids": positions[None]})


def _rotary_apart(swapped: Swapped, model: Any) -> str | None:
    """Return how the rotary kernel differs when called alone; nearly uniform attention would hide an error."""
    module = next((module for module, _ in swapped if ROTARY in type(module).forward.__code__.co_names), None)
    if module is None:
        return None
    weight = next(model.parameters())
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    found = []
    for forward in (type(module).forward, module.forward.__func__):
        angles = torch.arange(7 * module.head_dim, dtype=torch.float32).view(1, 7, -1) / 3
        angles = angles[..., : module.head_dim // 2].repeat(1, 1, 2).to(weight.device)
        states = [torch.arange(n * 7 * module.head_dim, dtype=torch.float32).view(1, n, 7, -1).sin() for n in (4, 2)]
        leaves = [each.to(weight.device, dtype).requires_grad_() for each in states]
        # Copies, because the kernel rotates its inputs in place.
        turned = forward.__globals__[ROTARY](
            *(leaf * 1 for leaf in leaves), angles.cos().to(dtype), angles.sin().to(dtype)
        )
        weights = [torch.arange(each.numel(), device=weight.device).view_as(each).cos() for each in turned]
        total = sum((each.float() * factor).sum() for each, factor in zip(turned, weights, strict=True))
        found.append([*(each.detach() for each in turned), *torch.autograd.grad(total, leaves)])
    return _apart(*found)


def _apart(expected: list[torch.Tensor], found: list[torch.Tensor]) -> str | None:
    """Return how the kernels differ from the model, or None if they compute the same."""
    limit = STATES_FLOAT32 if is_exact(expected[0]) else STATES_HALF
    for number, (own, other) in enumerate(zip(expected, found, strict=True)):
        apart = float((own.float() - other.float()).norm() / own.float().norm().clamp_min(1e-12))
        if not apart <= limit * (GRADIENTS_PER_STATE if number else 1):
            what = "gradients" if number else "hidden states"
            return f"{what} of this model would differ by {apart:.1%}"
    return None
