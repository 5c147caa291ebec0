"""Loading the base model and putting the adapter on it."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from snaketune.common.errors import ConfigError
from snaketune.train.device import Device, attention, weight_dtype


def load_base(folder: str | Path, model: dict[str, Any], device: Device) -> PreTrainedModel:
    """Load the prepared model in ``folder`` onto the device for training.

    Args:
        folder: a Hugging Face model folder.
        model: ``dtype``, ``attn_implementation`` and ``trust_remote_code`` of the configuration.
        device: where it goes; its type decides the number format of ``dtype: auto``.
    """
    dtype = weight_dtype(model["dtype"], device)
    loaded = open_model(folder, dtype, attention(model["attn_implementation"]), model["trust_remote_code"])
    return torch.nn.Module.to(loaded, device.type)


def open_model(folder: str | Path, dtype: torch.dtype, kernel: str, trust_remote_code: bool) -> PreTrainedModel:
    """Return the causal language model in ``folder``, from safetensors only and without a network.

    Raises:
        ConfigError: if the attention kernel is not installed.
    """
    logging.disable_progress_bar()
    # Trainer and model code of the same release warn about each other's names.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        return AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            attn_implementation=kernel,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
        )
    except ImportError as error:
        raise ConfigError(
            f"model.attn_implementation: {kernel} cannot be used here ({str(error).splitlines()[0]}): install it or set"
            " it to auto."
        ) from None


def add_adapter(base: PreTrainedModel, adapter: dict[str, Any]) -> PeftModel:
    """Put a LoRA adapter on the base model.

    Raises:
        ConfigError: if target modules do not exist in the model or the rank exceeds a layer.
    """
    widths = [min(m.in_features, m.out_features) for m in base.modules() if isinstance(m, torch.nn.Linear)]
    if widths and adapter["r"] > min(widths):
        raise ConfigError(
            f"adapter.r: {adapter['r']} is more than the narrowest layer of the model has: use {min(widths)} or less."
        )
    config = LoraConfig(
        r=adapter["r"],
        lora_alpha=adapter["lora_alpha"],
        lora_dropout=adapter["lora_dropout"],
        target_modules=adapter["target_modules"],
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        names = sorted({name.rsplit(".", 1)[-1] for name, m in base.named_modules() if isinstance(m, torch.nn.Linear)})
        raise ConfigError(
            f"adapter.target_modules: {adapter['target_modules']} does not fit this model"
            f" ({str(error).split('. ')[0]}): use all-linear or some of {', '.join(names)}."
        ) from None


def compile_layers(model: torch.nn.Module) -> int:
    """Compile each decoder layer in place and return how many there are.

    Compiling layer by layer, after the adapter, gives one graph, keeps the names of the state dict (a compiled
    whole model saves ``_orig_mod.`` keys that load as zeros) and survives activation checkpointing.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer.compile()
    return len(layers)
