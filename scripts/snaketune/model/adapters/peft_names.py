"""Names of layers between PEFT and us: what is called ``gate_proj`` is that layer, not the experts' fused matrix.

For kinds with experts PEFT takes ``gate_proj``, ``up_proj``, ``down_proj`` and ``gate`` for names of transformers 4 and
puts the adapter on the fused tensors of the experts instead, also where a dense layer or a shared expert is meant: that
layer then has no adapter. Names here are those of the installed transformers, so the translation is switched off; and
an adapter's file names such a layer as the parameter ``….gate_proj.weight``, which every PEFT reads as what it is.
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
    """Let PEFT take names of layers as they are while the block runs."""
    before = translation.convert_peft_config_for_transformers
    translation.convert_peft_config_for_transformers = lambda *args, **kwargs: None
    try:
        yield
    finally:
        translation.convert_peft_config_for_transformers = before


def for_every_peft(settings: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return an adapter's ``settings``, those of its file, so that PEFT itself finds the layers that were trained.

    Args:
        settings: as PEFT saved them.
        kind: ``model_type`` of the base model.
    """
    stated = settings.get("target_modules")
    modules = stated if isinstance(stated, list) and not settings.get("use_dora") else []
    taken = _taken_for_experts(modules, kind)
    if not taken:
        return settings
    parameters = [*(settings.get("target_parameters") or []), *(f"{name}{WEIGHT}" for name in taken)]
    changed = {"target_modules": [name for name in modules if name not in taken], "target_parameters": parameters}
    return {**settings, **changed, "lora_dropout": 0.0}  # PEFT drops nothing out of a parameter's inputs


def _taken_for_experts(modules: list[str], kind: str) -> list[str]:
    model: Any = SimpleNamespace(config=SimpleNamespace(model_type=kind))
    found = []
    for name in modules:
        probe = LoraConfig(target_modules=[name])
        try:
            translation.convert_peft_config_for_transformers(probe, model, None)
        except ValueError:  # it misses the other half of a fused matrix: it has taken the name
            found.append(name)
            continue
        found += [] if name in (probe.target_modules or ()) else [name]
    return found


def read_config(folder: str | Path) -> PeftConfig:
    """Return the configuration of the adapter in ``folder`` with all its layers among ``target_modules``."""
    config = PeftConfig.from_pretrained(str(folder))
    listed = getattr(config, "target_parameters", None) or []
    layers = [name.removesuffix(WEIGHT) for name in listed if name.endswith(WEIGHT)]
    if isinstance(config, LoraConfig) and layers:
        config.target_modules = sorted({*(config.target_modules or ()), *layers})
        config.target_parameters = [name for name in listed if not name.endswith(WEIGHT)] or None
    return config
