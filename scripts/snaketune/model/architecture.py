"""The kind of model that a configuration describes, its class in transformers, and its attention kernels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.errors import ConfigError
from snaketune.model.reward_model import is_reward_configuration


def read_configuration(folder: str | Path, trust_remote_code: bool) -> Any:
    """Return the ``PreTrainedConfig`` of the model in ``folder``.

    Raises:
        ConfigError: if this version of transformers does not support the kind of model, or cannot read its settings.
    """
    import transformers
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # configuration classes raise errors of many types; the reason is passed on
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"{Path(folder) / 'config.json'} cannot be read by transformers {transformers.__version__} ({reason}):"
            " correct it, or choose a model that this version knows."
        ) from error


def auto_class(config: Any) -> Any:
    """Return the transformers auto class that loads the model of ``config`` as a language model.

    This is ``AutoModelForCausalLM``, or ``AutoModelForImageTextToText`` for a vision-language model without a causal
    class, or whose causal class would drop the rest of the checkpoint. Only the text model is trained then; the other
    parts stay as they are and are part of the merged model. A reward model gives scores instead of text and is loaded
    as ``AutoModelForSequenceClassification``.
    """
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForSequenceClassification,
    )

    if is_reward_configuration(config):
        return AutoModelForSequenceClassification
    causal, whole = (kind._model_mapping for kind in (AutoModelForCausalLM, AutoModelForImageTextToText))
    is_whole = type(config) in whole and (type(config) not in causal or _takes_the_text_alone(config, causal))
    return AutoModelForImageTextToText if is_whole else AutoModelForCausalLM


def _takes_the_text_alone(config: Any, causal: Any) -> bool:
    """Return whether the causal class loads only a part of this checkpoint (one saved by that class has no more)."""
    text, found = getattr(type(config), "sub_configs", {}).get("text_config"), causal[type(config)]
    is_text = text is not None and getattr(found, "config_class", None) is text
    return is_text and found.__name__ not in (config.architectures or [])


def model_class(config: Any) -> type | None:
    """Return the model class of ``config``, None for an unknown kind or for a model with its own code."""
    mapping = auto_class(config)._model_mapping
    found = mapping[type(config)] if type(config) in mapping else None  # noqa: SIM401 - it is lazy and no dict
    return found[0] if isinstance(found, tuple) else found


@dataclass(frozen=True, slots=True)
class Support:
    """The attention kernels that transformers supports for a kind of model.

    Attributes:
        kind: ``model_type``.
        any_kernel: whether its layers look up their attention by name, so that a registered kernel of ours is used.
        flash_kernels: the flash kernels that it requires (for attention sinks, for example); empty if any will do.
    """

    kind: str
    sdpa: bool = True
    flash: bool = True
    flex: bool = True
    any_kernel: bool = True
    flash_kernels: tuple[str, ...] = ()

    def runs(self, kernel: str) -> bool:
        """Return whether the attention implementation ``kernel`` works with these models."""
        if kernel.startswith("flash"):
            return self.flash and (not self.flash_kernels or kernel in self.flash_kernels)
        return {"sdpa": self.sdpa, "flex_attention": self.flex}.get(kernel, True)


def support_of(config: Any) -> Support:
    """Return the kernels that the class of ``config`` declares; an unknown class is assumed to support all."""
    found, kind = model_class(config), config.model_type
    if found is None:
        return Support(kind)
    says = {name: bool(getattr(found, f"_supports_{name}", False)) for name in ("sdpa", "flash_attn", "flex_attn")}
    kernels = tuple(getattr(found, "_compatible_flash_implementations", None) or ())
    is_open = bool(getattr(found, "_supports_attention_backend", False))
    return Support(kind, says["sdpa"], says["flash_attn"], says["flex_attn"], is_open, kernels)


def body_of(model: Any) -> Any:
    """Return the part of a causal language model before the output layer, which yields the last hidden states.

    In most classes of transformers ``get_decoder`` returns that part. If it returns the whole model or the output
    layer, the part that contains the embedding is used.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    parts = (model.get_decoder(), model.base_model, *model.modules())
    for part in parts:
        inside = list(part.modules())
        is_larger = part is model or part is embedding or any(module is head for module in inside)
        if not is_larger and any(module is embedding for module in inside):
            return part
    return model.base_model
