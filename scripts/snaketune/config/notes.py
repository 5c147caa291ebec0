"""Notes on settings that are allowed but worth mentioning in the report."""

from typing import Any

from snaketune.config.schema import RunConfig
from snaketune.core.training_methods import PREFERENCE

# Above this, training every weight usually destroys what the model knew; adapters take ten times as much.
LARGE_FOR_ALL_WEIGHTS = 5e-5
# Presets of the embedded examples.
EXAMPLE_PRESETS = ("quickstart", "orpo", "kto", "reward")


def notes_for(preset: Any, origins: dict[str, str], config: RunConfig) -> tuple[str, ...]:
    """Return the notes on a run; ``origins`` has the keys that were set explicitly."""
    found = (
        _quickstart(preset, config),
        _trust(config),
        _learning_rate(origins, config),
        _full(config),
        _quantised(config),
    )
    return tuple(note for note in found if note)


def _quickstart(preset: Any, config: RunConfig) -> str:
    if preset not in EXAMPLE_PRESETS or config.model.name_or_path == "tiny":
        return ""
    return (
        f"preset: {preset} trains {config.model.name_or_path} with settings meant for the built-in tiny model"
        f" (learning rate {config.train.learning_rate:g}): remove the preset line to use the defaults."
    )


def _trust(config: RunConfig) -> str:
    if not config.model.trust_remote_code:
        return ""
    return "model.trust_remote_code: true runs Python code from the model repository with your permissions."


def _learning_rate(origins: dict[str, str], config: RunConfig) -> str:
    rate, is_full = config.train.learning_rate, config.adapter.type == "none"
    if "train.learning_rate" in origins or rate <= LARGE_FOR_ALL_WEIGHTS:
        return ""
    if (method := config.train.method) in PREFERENCE:
        usual = "5e-6" if is_full else "5e-5"
        return f"train.learning_rate: {rate:g} is the default for sft and high for {method}: {usual} is usual."
    if is_full:
        return (
            f"train.learning_rate: {rate:g} is the default for adapters and high for full fine-tuning: 1e-5 is usual."
        )
    return ""


def _full(config: RunConfig) -> str:
    if config.adapter.type != "none" or config.model.dtype != "bfloat16":
        return ""
    return (
        "adapter.type: none with model.dtype: bfloat16 rounds away every update that changes a weight by less than "
        "about 0.2%: set model.dtype to auto (float32) if memory allows."
    )


def _quantised(config: RunConfig) -> str:
    if config.model.quantization == "none":
        return ""
    return (
        f"model.quantization: {config.model.quantization}: base and tuned model are evaluated with quantised weights, "
        "as in training; the adapter is merged into the original weights, and the merged model is evaluated with those."
    )
