"""The layers of a model that get an adapter: what ``all-linear`` means for each kind of model.

PEFT takes every linear layer except the output layer. This module also leaves out routers of experts; layers so narrow
that an update of rank r is not low-rank; layers whose forward is not a plain matrix product; layers whose weight is
read directly by a kernel, bypassing the adapter; and everything outside the text model of a vision-language model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from snaketune.core.errors import ConfigError
from snaketune.model.reward_model import HEAD

ALL_LINEAR = "all-linear"
ROUTERS = frozenset({"gate", "router", "shared_expert_gate", "wg"})
EXPERT_NAMES = ("experts", "expert", "input_linear", "w1", "block_sparse_moe")
# Layers whose weight is read directly, by a kernel or by the model's own code, so that an adapter would have no effect.
# PEFT refuses some of them by name.
FUSED_OUT = frozenset({"out_proj", "conv1d"})
FUSED_MIXER = FUSED_OUT | {"dt_proj", "x_proj"}
READ_DIRECTLY: dict[str, frozenset[str]] = {
    **dict.fromkeys(("falcon_h1", "mamba2", "nemotron_h", "bamba", "granitemoehybrid", "zamba2"), FUSED_OUT),
    **dict.fromkeys(("mamba", "falcon_mamba"), FUSED_MIXER),
    "jamba": frozenset({"dt_proj"}),
}
# Modules that select the tokens of sparse attention or the ends of byte patches: a discrete choice has no gradient.
CHOOSERS = frozenset({"indexer", "patcher"})
# Names of the image and audio parts of models whose configuration has no separate text model.
OTHER_SENSES = ("vision", "visual", "image", "audio")
# Attention to inputs other than text, which training on text does not use.
CROSS_ATTENTION = frozenset({"encoder_attn", "crossattention"})
# Only a layer at least this many times narrower than the model is left out; otherwise the rank itself is too large.
NARROW = 8


@dataclass(frozen=True, slots=True)
class Targets:
    """The layers that get an adapter, and those left out with the reasons.

    Attributes:
        modules: ``target_modules`` for PEFT.
        remarks: a clause for each kind of layer that ``all-linear`` leaves out.
    """

    modules: list[str]
    remarks: tuple[str, ...] = ()


def targets_of(model: Any, target_modules: str | list[str], rank: int) -> Targets:
    """Return the layers of ``model`` that get an adapter of ``rank``.

    Args:
        model: the base model; weights are not needed.
        target_modules: ``all-linear``, or names of layers, which are used as they are.
        rank: ``adapter.r``.

    Raises:
        ConfigError: if LoRA cannot adapt a named layer, or ``all-linear`` finds no layer.
    """
    if target_modules != ALL_LINEAR:
        names = [target_modules] if isinstance(target_modules, str) else list(target_modules)
        _refuse_unsuitable(model, names)
        return Targets(names)
    left_out: dict[str, list[str]] = {}
    kept = []
    for name, module in linear_layers(model):
        reason = _reason(model, name, module, rank)
        if reason:
            left_out.setdefault(reason, []).append(name)
        else:
            kept.append(name)
    if not kept:
        raise ConfigError(
            f"adapter.target_modules: all-linear finds no layer of this {model.config.model_type} model that an adapter"
            " of this rank can change: name some of its layers, lower adapter.r, or set adapter.type to none."
        )
    return Targets(kept, tuple(f"{_few(names)} ({reason})" for reason, names in left_out.items()))


def linear_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and module of every linear layer except the output layer, or the head of a reward model."""
    import torch
    from transformers.pytorch_utils import Conv1D

    heads = (model.get_output_embeddings(), getattr(model, HEAD, None))
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and not any(module is head for head in heads):
            yield name, module


def text_prefix(model: Any) -> str:
    """Return the prefix of the text model's module names, or "" if the model has no other parts."""
    if model.config.get_text_config() is model.config:
        return ""
    decoder = model.get_decoder()
    return next((f"{name}." for name, module in model.named_modules() if module is decoder and name), "")


def width_of(model: Any) -> int:
    """Return the width of the hidden states."""
    return model.get_input_embeddings().weight.shape[-1]


def narrowest(module: Any) -> int:
    """Return the smaller dimension of a linear layer, not from its weight if possible: quantised weights are packed."""
    if hasattr(module, "in_features"):
        return min(module.in_features, module.out_features)
    return min(module.weight.shape)


def _reason(model: Any, name: str, module: Any, rank: int) -> str | None:
    """Return the reason why ``all-linear`` leaves a layer out, None if it includes it."""
    last = name.rsplit(".", 1)[-1]
    if not name.startswith(text_prefix(model)) or any(part.startswith(OTHER_SENSES) for part in name.split(".")):
        return "not part of the text model"
    if is_router(model, name):
        return "chooses experts"
    if not _is_product(module):
        return "is more than a matrix product"
    if last in READ_DIRECTLY.get(model.config.get_text_config().model_type, ()):
        return "its weight is read without its forward, which would bypass an adapter"
    if CHOOSERS & {*name.split(".")}:
        return "makes a discrete choice, which has no gradient"
    if _attends_elsewhere(model, name):
        return "attends to something other than text"
    if narrowest(module) < rank and NARROW * narrowest(module) <= width_of(model):
        return f"has a rank below {rank}"
    return None


def _attends_elsewhere(model: Any, name: str) -> bool:
    parts = {*name.split(".")}
    is_mllama = model.config.get_text_config().model_type == "mllama_text_model"
    return bool(CROSS_ATTENTION & parts) or (is_mllama and "cross_attn" in parts)


def is_router(model: Any, name: str) -> bool:
    """Return whether the layer chooses among experts: it has a router's name, and experts are its siblings."""
    # The name alone does not tell: ``gate`` is a router in some models and an ordinary projection in others.
    parts = name.split(".")
    for at, part in enumerate(parts):
        if part == "router" or part == "shared_expert_gate":
            return True
        if part in ROUTERS:
            parent = model.get_submodule(".".join(parts[:at]))
            if any(child in EXPERT_NAMES for child, _ in parent.named_children()):
                return True
    return False


def _is_product(module: Any) -> bool:
    """Return whether a layer returns one tensor; model-specific subclasses, such as routers, may return two."""
    import torch

    if not type(module).__module__.startswith(("transformers.models.", "transformers_modules.")):
        return True
    weight = module.weight
    try:
        with torch.no_grad():
            result = module(torch.zeros(1, module.in_features, dtype=weight.dtype, device=weight.device))
    except (
        RuntimeError,
        ValueError,
        TypeError,
        IndexError,
    ):  # it needs inputs of another shape, as grouped linear layers do
        return False
    return isinstance(result, torch.Tensor)


def _refuse_unsuitable(model: Any, names: list[str]) -> None:
    for name, module in linear_layers(model):
        wanted = next((one for one in names if name == one or name.endswith(f".{one}")), None)
        if wanted and not _is_product(module):
            raise ConfigError(
                f"adapter.target_modules: {wanted} is a {type(module).__name__}, whose result is more than a matrix"
                " product, so LoRA cannot adapt it: leave it out."
            )


def _few(names: list[str], most: int = 3) -> str:
    """Return the distinct last components of some names, without layer numbers, for a message."""
    kinds = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))
    return ", ".join(kinds[:most]) + (f" and {len(kinds) - most} more" if len(kinds) > most else "")
