"""Selects the trained weights: all of them, or an adapter on frozen ones."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from snaketune.core.errors import ConfigError, TrainingError
from snaketune.model.adapters.lora import fused_experts, put_adapter
from snaketune.model.adapters.targets import Targets, targets_of
from snaketune.settings.adapter_section import AdapterSection

ADAPTER_NAME = "default"
# Parts of the names of an adapter's tensors.
ADAPTER_TENSORS = ("lora_", "modules_to_save", "trainable_tokens_delta")


def add_adapter(
    base: PreTrainedModel, adapter: AdapterSection, start: str | Path | None = None
) -> PeftModel | PreTrainedModel:
    """Return the model that is trained: the base with an adapter on it or, with ``type: none``, the base itself.

    Args:
        base: the loaded model.
        adapter: the ``adapter`` section.
        start: weights of an adapter to continue from, as PEFT saves them.

    Raises:
        ConfigError: if a module, a pattern or a rank does not fit the model.
        TrainingError: if the weights to start from do not fit.
    """
    if adapter["type"] == "none":
        return base.requires_grad_(True)
    check_expressions(adapter)
    check_modules_to_save(base, adapter["modules_to_save"])
    targets = targets_of(base, adapter["target_modules"], adapter["r"])
    model = put_adapter(base, adapter, targets)
    for note in _left_alone(model, targets):
        print(f"Note: {note}.", flush=True)
    check_patterns(model, adapter)
    check_ranks(model, adapter["r"])
    if start:
        load_weights(model, Path(start))
    # Last, because loading weights and PEFT's own initialisation may change dtypes.
    cast_trainable(model, torch.bfloat16 if adapter["dtype"] == "bfloat16" else torch.float32)
    return model


def _left_alone(model: PeftModel, targets: Targets) -> list[str]:
    """Return notes on weights that the adapter unexpectedly does not cover."""
    notes = [f"no adapter on {', '.join(targets.remarks)}"] if targets.remarks else []
    sizes = {name: weight.numel() for name, weight in model.get_base_model().named_parameters() if "lora_" not in name}
    experts = fused_experts(model.get_base_model())
    if experts and not any(isinstance(module, ParamWrapper) for module in model.modules()):
        share = sum(sizes[name] for name in experts) / sum(sizes.values())
        notes.append(
            f"the experts ({share:.0%} of the weights) get no adapter; set adapter.target_parameters to all-experts to "
            "train them as well"
        )
    return notes


def check_modules_to_save(base: torch.nn.Module, names: list[str]) -> None:
    """Raise ConfigError for a module that the model lacks, which PEFT would ignore, or that cannot be trained."""
    for wanted in names:
        found = [module for name, module in base.named_modules() if name.endswith(wanted)]
        if not found:
            known = sorted({name.rsplit(".", 1)[-1] for name, _ in base.named_modules() if name} - {"layers"})
            known = [name for name in known if not name.isdigit()]
            raise ConfigError(
                f"adapter.modules_to_save: this model has no module {wanted}: use some of {', '.join(known)}."
            )
        if any(not weight.is_floating_point() for module in found for weight in module.parameters()):
            raise ConfigError(
                f"adapter.modules_to_save: {wanted} is quantised and cannot be trained directly: leave it out, or set"
                " model.quantization to none."
            )


def check_expressions(adapter: AdapterSection) -> None:
    """Raise ConfigError for a pattern that is not a regular expression."""
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in adapter[key]:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"adapter.{key}: {pattern!r} is not a regular expression ({error}): give the name of a layer."
                ) from None


def check_patterns(model: PeftModel, adapter: AdapterSection) -> None:
    """Raise ConfigError for a rank or alpha pattern that matches no adapted layer, which PEFT would ignore."""
    layers = [name for name, module in model.get_base_model().named_modules() if isinstance(module, LoraLayer)]
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in adapter[key]:
            if not any(get_pattern_key([pattern], name) == pattern for name in layers):
                raise ConfigError(
                    f"adapter.{key}: {pattern!r} matches no adapted layer: layer names look like {layers[0]}."
                )


def check_ranks(model: PeftModel, rank: int) -> None:
    """Raise ConfigError if an adapter has a rank above what its layer can have."""
    for name, module in model.get_base_model().named_modules():
        if not isinstance(module, LoraLayer):
            continue
        widest, own = min(module.in_features or 0, module.out_features or 0), module.r[ADAPTER_NAME]
        # A product of that rank cannot have more than the smaller dimension: the rest would be wasted memory.
        if own > widest:
            key = "adapter.r" if own == rank else "adapter.rank_pattern"
            raise ConfigError(
                f"{key}: {own} exceeds the layer {name} ({module.in_features} x {module.out_features}): use"
                f" {widest} or less."
            )


def load_weights(model: PeftModel, path: Path) -> None:
    """Put the adapter weights at ``path`` into the model's adapter.

    Raises:
        TrainingError: if they are not exactly those that the adapter has.
    """
    try:
        problem = _misfit(model, load_file(path))
    except (SafetensorError, FileNotFoundError, RuntimeError) as error:
        problem = str(error).strip().splitlines()[-1].strip()
    if problem:
        raise TrainingError(f"{path}: the weights do not fit this run's adapter ({problem}): train the adapter again.")


def _misfit(model: PeftModel, tensors: Mapping[str, torch.Tensor]) -> str | None:
    result: Any = set_peft_model_state_dict(model, dict(tensors))
    missing = [name for name in result.missing_keys if any(part in name for part in ADAPTER_TENSORS)]
    strays = [*missing, *result.unexpected_keys]
    return f"{len(strays)} tensors are missing or unknown, the first is {strays[0]}" if strays else None


def cast_trainable(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give trained weights their dtype.

    DoRA's magnitudes stay float32: their updates are smaller than a step of bfloat16.
    """
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(torch.float32 if "lora_magnitude_vector" in name else dtype)
