"""Exact parameter counts of a model and its adapter, from the configuration alone.

The architecture is built on torch's meta device, with shapes but without weights, and no file is read. The counts
therefore hold for any architecture that transformers supports (biases, query and key norms, tied embeddings, experts)
without a formula per family. This takes a fraction of a second and a few megabytes.
"""

import copy
from dataclasses import dataclass
from typing import Any

from snaketune.core.errors import PlanError
from snaketune.plan.cache import remembered
from snaketune.plan.memory.unknown import unknown_instead
from snaketune.settings.adapter_section import AdapterSection

EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
EXPERTS_USED = ("num_experts_per_tok", "top_k_experts", "moe_topk")


@dataclass(frozen=True, slots=True)
class TextSizes:
    """Sizes that the configuration of the text model states."""

    vocabulary: int
    hidden: int
    layers: int


@remembered
def text_sizes(config: Any) -> TextSizes:
    """Return the sizes of the text model that ``config`` describes."""
    text = config.get_text_config()
    return TextSizes(text.vocab_size, text.hidden_size, text.num_hidden_layers)


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Numbers of parameters; ``total`` is their sum, with a head that shares the embedding's weights counted once."""

    linear: int
    """Matrices of the layers without the experts: those that 8-bit and 4-bit quantisation applies to."""
    experts: int
    """Matrices of all experts of a mixture-of-experts model."""
    active_experts: int
    """Matrices of the experts that one token passes through."""
    embedding: int
    """Embedding tables, the input embedding and learned positions."""
    head: int
    """Matrix from the last hidden state to the vocabulary."""
    tied: bool
    """Whether the head is the embedding table."""
    other: int
    """Norms, biases and other vectors."""

    @property
    def total(self) -> int:
        """Return the number of stored parameters."""
        return self.linear + self.experts + self.embedding + (0 if self.tied else self.head) + self.other

    @property
    def multiplied(self) -> int:
        """Return the matrix entries that one token is multiplied with: layers, active experts and head."""
        return self.linear + self.active_experts + self.head


@remembered
def count_config_parameters(config: Any) -> ParameterCounts:
    """Return the parameter counts of the causal language model that ``config`` describes.

    Args:
        config: a ``PreTrainedConfig`` of transformers.

    Raises:
        PlanError: if transformers has no causal language model for it, or it has experts but does not say how many
            of them a token uses.
    """
    model = meta_model(config)
    with unknown_instead(config, "size"):
        return _counts(model, config)


def _counts(model: Any, config: Any) -> ParameterCounts:
    import torch

    # By identity: a tied head is the same tensor under another name.
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    head = model.get_output_embeddings()
    sizes = {"linear": 0, "experts": 0, "embedding": 0, "head": 0, "other": 0}
    for name, parameter in model.named_parameters():
        sizes[_kind(name, parameter, embeddings, head)] += parameter.numel()
    tied = head is not None and id(head.weight) in embeddings
    sizes["head"] = head.weight.numel() if head is not None else 0
    return ParameterCounts(**sizes, active_experts=_active(sizes["experts"], config), tied=tied)


def _kind(name: str, parameter: Any, embeddings: set[int], head: Any) -> str:
    if id(parameter) in embeddings:
        return "embedding"
    if head is not None and parameter is head.weight:
        return "head"
    if ".experts." in name and parameter.dim() >= 2 and not name.endswith("bias"):
        return "experts"
    # Convolutions of hybrid models are three-dimensional and negligible.
    return "linear" if parameter.dim() == 2 else "other"


def _active(experts: int, config: Any) -> int:
    if not experts:
        return 0
    text = config.get_text_config()
    everyone = next((getattr(text, name) for name in EXPERT_COUNTS if getattr(text, name, None)), None)
    used = next((getattr(text, name) for name in EXPERTS_USED if getattr(text, name, None)), None)
    if not everyone or not used:
        raise PlanError(
            f"model.name_or_path: a {text.model_type} model has experts, but its config.json does not state how many a "
            "token uses (num_experts_per_tok), so its FLOPs are unknown: measure a short run with plan.probe."
        )
    return experts * used // everyone


def refuse_experts(config: Any, counts: ParameterCounts) -> None:
    """Raise PlanError for a mixture of experts, whose memory depends on the routing of the data."""
    if counts.experts:
        raise PlanError(
            f"model.name_or_path: a {config.model_type} model is a mixture of experts whose memory depends on the "
            "routing of the data and is unknown: measure a short run with plan.probe."
        )


def lora_parameters(config: Any, adapter: AdapterSection) -> int:
    """Return the number of trainable parameters of a LoRA adapter on the model of ``config``.

    PEFT itself adapts the meta model, so that its rules (all-linear, rank patterns, DoRA vectors, modules to save) are
    not duplicated here.

    Args:
        config: a ``PreTrainedConfig`` of transformers.
        adapter: the ``adapter`` section: ``r``, ``target_modules`` and, where given, ``rank_pattern``, ``use_dora``,
            ``modules_to_save``.

    Raises:
        ConfigError: if the target modules do not exist in the model.
    """
    model = adapted_model(meta_model(config), adapter)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def meta_model(config: Any, **settings: Any) -> Any:
    """Return the causal language model of ``config`` on the meta device: shapes without weights.

    Args:
        config: a ``PreTrainedConfig``; it is copied.
        settings: ``dtype``, ``attn_implementation`` and what else ``from_config`` takes.

    Raises:
        PlanError: if transformers cannot build it.
    """
    import torch

    from snaketune.model.architecture import auto_class

    config = copy.deepcopy(config)
    config.use_cache = False
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with unknown_instead(config, "size"), torch.device("meta"):
        return auto_class(config).from_config(config, **settings)


def adapted_model(model: Any, adapter: AdapterSection) -> Any:
    """Return ``model`` (on the meta device) with the LoRA adapter of the ``adapter`` section on it."""
    import torch

    from snaketune.model.adapters.lora import put_adapter

    with torch.device("meta"):
        return put_adapter(model, adapter)
