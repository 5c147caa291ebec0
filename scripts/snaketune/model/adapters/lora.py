"""The PEFT configuration of the ``adapter`` section, the same for training and for planning."""

import warnings
from typing import Any, cast

from peft import LoraConfig, PeftModel, get_peft_model

from snaketune.core.errors import ConfigError
from snaketune.model.adapters.peft_names import names_as_given
from snaketune.model.adapters.targets import ALL_LINEAR, Targets, linear_layers, targets_of
from snaketune.model.reward_model import HEAD, TASK, has_reward_head
from snaketune.settings.adapter_section import AdapterSection

ALL_EXPERTS = "all-experts"
LISTED = 8


def lora_config(model: Any, adapter: AdapterSection, targets: Targets | None = None) -> LoraConfig:
    """Return PEFT's configuration of the ``adapter`` section for ``model``.

    Args:
        model: the base model; weights are not needed.
        adapter: the section, with ids of tokens in ``trainable_token_indices``.
        targets: the result of :func:`targets_of`; computed here by default.

    Raises:
        ConfigError: if a layer or a parameter does not exist in the model or does not suit it.
    """
    targets = targets or targets_of(model, adapter["target_modules"], adapter["r"])
    is_tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    scores = has_reward_head(model)
    whole = [*(adapter.get("modules_to_save") or []), *([HEAD] if scores else [])]
    tokens = cast(list[int], list(adapter.get("trainable_token_indices") or []))
    return LoraConfig(
        r=adapter["r"],
        lora_alpha=adapter.get("lora_alpha", 8),
        lora_dropout=adapter.get("lora_dropout", 0.0),
        target_modules=targets.modules,
        target_parameters=expert_parameters(model, adapter.get("target_parameters") or []) or None,
        use_rslora=adapter.get("use_rslora", False),
        use_dora=adapter.get("use_dora", False),
        rank_pattern=dict(adapter.get("rank_pattern") or {}),
        alpha_pattern=dict(adapter.get("alpha_pattern") or {}),
        modules_to_save=whole or None,
        trainable_token_indices=dict.fromkeys(embedding_names(model, is_tied), tokens) if tokens else None,
        # Otherwise a trained copy of tied embeddings would diverge from the output layer.
        ensure_weight_tying=is_tied and bool(whole) and not scores,
        bias="none",
        task_type=TASK if scores else "CAUSAL_LM",
    )


def put_adapter(model: Any, adapter: AdapterSection, targets: Targets | None = None) -> PeftModel:
    """Return ``model`` wrapped with the adapter of the ``adapter`` section.

    Raises:
        ConfigError: if the adapter does not fit the model.
    """
    config = lora_config(model, adapter, targets)
    try:
        with warnings.catch_warnings(), names_as_given():
            # Current PEFT and transformers warn about each other's names and about models with experts.
            warnings.simplefilter("ignore")
            return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(
            f"adapter.target_modules: {adapter['target_modules']} does not match this model "
            f"({str(error).split('. ')[0]}): use {_alternatives(model, adapter)}."
        ) from None


def _alternatives(model: Any, adapter: AdapterSection) -> str:
    names = sorted({name.rsplit(".", 1)[-1] for name, _ in linear_layers(model)})
    some = f"some of {', '.join(names[:LISTED])}" + (" …" if len(names) > LISTED else "")
    return some if adapter["target_modules"] == ALL_LINEAR else f"all-linear or {some}"


def embedding_names(model: Any, is_tied: bool) -> list[str]:
    """Return the names of the layers with one row per token: the input embedding and an untied output layer.

    A tied output layer shares the embedding's weights and is not listed.
    """
    layers = [model.get_input_embeddings()] + ([] if is_tied else [model.get_output_embeddings()])
    return [name for name, module in model.named_modules() if name and any(module is layer for layer in layers)]


def expert_parameters(model: Any, wanted: str | list[str]) -> list[str]:
    """Return the names of the fused expert tensors selected by ``adapter.target_parameters``.

    Raises:
        ConfigError: if the model has no such tensors.
    """
    if not wanted:
        return []
    found = fused_experts(model)
    if wanted == ALL_EXPERTS:
        names = sorted({".".join(name.rsplit(".", 2)[1:]) for name in found})
        missing = not names
    else:
        names = list(wanted)
        every = [name for name, _ in model.named_parameters()]
        missing = any(not any(one == name or one.endswith(f".{name}") for one in every) for name in names)
    if missing:
        known = sorted({".".join(name.rsplit(".", 2)[1:]) for name in found})
        cure = f"use any of {', '.join(known)}" if known else "leave it out"
        raise ConfigError(
            f"adapter.target_parameters: {wanted} is not in this {model.config.model_type} model: {cure}."
        )
    return names


def fused_experts(model: Any) -> list[str]:
    """Return the names of parameters with the matrices of all experts of a layer, shape [experts, …, …]."""
    found = ((name, weight) for name, weight in model.named_parameters() if "lora_" not in name)
    return [name for name, weight in found if weight.dim() == 3 and ".experts." in f".{name}"]


def leave_inputs_to_autocast(model: Any) -> None:
    """Stop PEFT from casting the inputs of float32 adapters to float32, which autocast reverts at once.

    The casts would be saved for the backward pass (17% more activation memory); gradients are identical without them.
    """
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
