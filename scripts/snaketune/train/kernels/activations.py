"""Activation checkpointing: which layers recompute their activations in the backward pass."""

from collections.abc import Callable
from typing import Any


def checkpoint_interval(setting: bool | str, every_n_layers: int, least: Callable[[], int]) -> int:
    """Return n if every n-th layer is checkpointed, 0 if none is.

    Checkpointing all layers makes LoRA training about half as expensive again (its backward pass has no weight
    gradients to hide the recomputation behind), so that ``auto`` checkpoints as few layers as fit: none, every
    fourth, every second, all.

    Args:
        setting: ``train.gradient_checkpointing``.
        every_n_layers: ``train.checkpoint_every_n_layers``, the n for ``true``.
        least: returns the n of the least checkpointing with which the run fits the memory.
    """
    # Called only if needed: finding the least interval traces the model.
    if setting == "auto":
        return least()
    return every_n_layers if setting else 0


def checkpointing_arguments(interval: int) -> dict[str, Any]:
    """Return the arguments of ``TrainingArguments`` that checkpoint every ``interval``-th layer."""
    if not interval:
        return {"activation_checkpointing": False}
    # Reentrant checkpointing needs inputs with gradients and does not compile.
    how = {"use_reentrant": False, "every_n_layers": interval}
    return {"activation_checkpointing": True, "activation_checkpointing_kwargs": how}
