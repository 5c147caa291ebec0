"""Layer names given to PEFT: ``gate_proj`` means the layer of that name, not the fused matrix of the experts.

For models with experts, PEFT takes ``gate_proj``, ``up_proj``, ``down_proj`` and ``gate`` as names of transformers 4
and puts the adapter on the fused tensors of the experts, even if a dense layer or a shared expert is meant, which then
has no adapter. Names here are those of the installed transformers, so the translation is switched off. In an adapter's
file, such a layer is named as the parameter ``….gate_proj.weight``, which every version of PEFT reads correctly.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from peft import LoraConfig, PeftConfig
from peft.utils import transformers_weight_conversion as translation

WEIGHT = ".weight"


@contextmanager
def names_as_given() -> Iterator[None]:
    """Make PEFT use layer names as they are inside the block."""
    before = translation.convert_peft_config_for_transformers
    translation.convert_peft_config_for_transformers = lambda *args, **kwargs: None
    try:
        yield
    finally:
        translation.convert_peft_config_for_transformers = before


def for_every_peft(settings: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return an adapter's saved ``settings``, changed so that an unmodified PEFT finds the trained layers.

    Args:
        settings: the settings as PEFT saved them.
        kind: ``model_type`` of the base model.
    """
    stated = settings.get("target_modules")
    modules = stated if isinstance(stated, list) and not settings.get("use_dora") else []
    taken = _taken_for_experts(modules, kind)
    if not taken:
        return settings
    parameters = [*(settings.get("target_parameters") or []), *(f"{name}{WEIGHT}" for name in taken)]
    changed = {"target_modules": [name for name in modules if name not in taken], "target_parameters": parameters}
    return {**settings, **changed, "lora_dropout": 0.0}  # PEFT has no dropout for target_parameters


def _taken_for_experts(modules: list[str], kind: str) -> list[str]:
    model: Any = SimpleNamespace(config=SimpleNamespace(model_type=kind))
    found = []
    for name in modules:
        probe = LoraConfig(target_modules=[name])
        try:
            translation.convert_peft_config_for_transformers(probe, model, None)
        except ValueError:  # PEFT lacks the other half of a fused matrix, so it has translated the name
            found.append(name)
            continue
        found += [] if name in (probe.target_modules or ()) else [name]
    return found


def read_config(folder: str | Path) -> PeftConfig:
    """Return the configuration of the adapter in ``folder``, with all its layers in ``target_modules``."""
    config = PeftConfig.from_pretrained(str(folder))
    listed = getattr(config, "target_parameters", None) or []
    layers = [name.removesuffix(WEIGHT) for name in listed if name.endswith(WEIGHT)]
    if isinstance(config, LoraConfig) and layers:
        config.target_modules = sorted({*(config.target_modules or ()), *layers})
        config.target_parameters = [name for name in listed if not name.endswith(WEIGHT)] or None
    return config
