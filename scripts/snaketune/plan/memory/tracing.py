"""Activation memory of one training step, traced on the meta device.

A forward and a backward pass run on tensors that have shapes but no data, while every storage that is allocated or
freed is counted. The figures therefore follow the code of the architecture, of PEFT and of checkpointing, and include
the temporary memory of the backward pass. Layers of one kind are traced once and the model extrapolated from depths of
1 and 3, which takes a tenth of a second for any size; a model of mixed layers is traced at full depth.

The meta device needs three substitutes: a fused attention (its own falls back to matrices of length²), mixed precision
(autocast refuses the device) and quantised matrix products (bitsandbytes has no meta kernels).
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from snaketune.core.errors import PlanError
from snaketune.model.architecture import body_of, support_of
from snaketune.plan.cache import remembered
from snaketune.plan.memory.counting import adapted_model, count_config_parameters, meta_model, refuse_experts
from snaketune.plan.memory.unknown import unknown_instead
from snaketune.plan.memory_settings import MemorySetting

SHALLOW, DEEP = 1, 3


@dataclass(frozen=True, slots=True)
class Trace:
    """Bytes of one step besides weights, gradients and optimizer: saved for the backward pass, and temporary."""

    kept: int
    """Alive between the forward and the backward pass, without the head."""
    transient: int
    """Additional peak in the backward pass: gradients of activations, a recomputed layer."""


@remembered
def trace_step(config: Any, setting: MemorySetting) -> Trace:
    """Return the activation memory of a step; traces are cached in this process.

    Args:
        config: a ``PreTrainedConfig``.
        setting: the run; only ``checkpoint_every`` 0 (keep all) and 1 (recompute all layers) can be extrapolated.

    Raises:
        PlanError: if the architecture cannot run without data.
        ConfigError: if the adapter does not fit the model.
    """
    refuse_experts(config, count_config_parameters(config))
    with unknown_instead(config, "memory"):
        layers = config.get_text_config().num_hidden_layers
        if layers <= DEEP or not _uniform(config):
            kept, peak = _run(config, layers, setting)
            return Trace(kept, max(peak - kept, 0))
        shallow, _ = _run(config, SHALLOW, setting)
        deep, peak = _run(config, DEEP, setting)
        # The difference of two depths removes what does not depend on depth: the embedding's output, the mask and the
        # last norm.
        per_layer = (deep - shallow) / (DEEP - SHALLOW)
        # The peak beyond what is kept comes from one layer at a time and is the same at any depth.
        return Trace(round(shallow + (layers - SHALLOW) * per_layer), max(peak - deep, 0))


def _uniform(config: Any) -> bool:
    """Tell whether all layers have the same parameters and the same kind of attention."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in meta_model(config).modules() if isinstance(module, GradientCheckpointingLayer)]
    kinds = {tuple((name, tuple(value.shape)) for name, value in layer.named_parameters()) for layer in layers}
    types = set(getattr(config.get_text_config(), "layer_types", None) or [])
    pairwise = {"full_attention", "sliding_attention"}  # a fused kernel keeps the same for both
    return len(kinds) == 1 and (len(types) < 2 or types <= pairwise)


def _run(config: Any, depth: int, setting: MemorySetting) -> tuple[int, int]:
    """Return the bytes alive after the forward pass and the most alive in the backward pass, at ``depth`` layers."""
    import torch

    from snaketune.plan.memory.meta_ops import LiveBytes, MixedPrecision, attention_name, without_packing_detection

    def mixed() -> Any:
        quantized = setting.quantization if setting.adapter else "none"
        needed = setting.autocast or quantized != "none"
        return MixedPrecision(setting.autocast or setting.weight_dtype, quantized) if needed else nullcontext()

    attention = _kernel(config, setting.attention)
    model, body = _build(_with_depth(config, depth), setting, attention_name(attention), mixed)
    rows, length = setting.micro_batch, setting.row_length
    ids = torch.zeros((rows, length), dtype=torch.long, device="meta")
    live = LiveBytes([*model.parameters(), *model.buffers()])
    with live, without_packing_detection():
        # All layers share the mask that separates the documents of a row, so it is counted once.
        pairs = rows * length**2 if attention == "sdpa" else 0
        mask = torch.empty(pairs, dtype=torch.bool, device="meta")
        with mixed():
            hidden = body(input_ids=ids, use_cache=False).last_hidden_state
        kept = live.now
        torch.autograd.backward(hidden, torch.empty_like(hidden))
        del mask
    return kept, live.peak


def _kernel(config: Any, wanted: str) -> str:
    """Return the kernel that a run of this model gets if ``wanted`` is the best available.

    Raises:
        PlanError: if its layers accept none of the substitutes, so that their memory cannot be traced.
    """
    support = support_of(config)
    kernel = "sdpa" if wanted == "fused" and not (support.any_kernel and support.sdpa) else wanted
    kernel = "eager" if kernel == "sdpa" and not support.sdpa else kernel
    if kernel != "eager" and not support.any_kernel:
        raise PlanError(
            f"model.name_or_path: {support.kind} models have their own attention, whose memory cannot be traced "
            "without data and is unknown: measure a short run with plan.probe."
        )
    return kernel


def _build(config: Any, setting: MemorySetting, attention: str, mixed: Callable[[], Any]) -> tuple[Any, Any]:
    """Return the model in training mode and its body, the part that ends before the head.

    ``mixed`` makes the precision context that a recomputed layer runs under.
    """
    import torch

    base = meta_model(config, dtype=getattr(torch, setting.weight_dtype), attn_implementation=attention)
    model = base
    if setting.adapter:
        model = adapted_model(base, setting.adapter.section())
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(getattr(torch, setting.adapter.dtype))
        if setting.autocast:
            from snaketune.model.adapters.lora import leave_inputs_to_autocast

            leave_inputs_to_autocast(model)
    if setting.device == "cpu" and not setting.autocast:
        from snaketune.train.kernels.fused_layers import fuse_layers

        fuse_layers(model)  # as training does; layers in other formats stay as they are
    if setting.checkpoint_every:
        # Recomputation runs in the backward pass, outside the precision context of the forward pass.
        contexts = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), mixed())}
        base.activation_checkpointing_enable(contexts, every_n_layers=setting.checkpoint_every)
    for parameter in model.parameters():
        if parameter.requires_grad:  # gradients of weights are a separate part of the plan
            parameter.register_post_accumulate_grad_hook(_drop_gradient)
    return model.train(), body_of(base)


def _drop_gradient(parameter: Any) -> None:
    parameter.grad = None


def _with_depth(config: Any, depth: int) -> Any:
    """Return a copy of ``config`` with ``depth`` layers; lists with one entry per layer are cut as well."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    layers = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == layers:
            setattr(text, name, value[:depth])
    text.num_hidden_layers = depth
    return config
