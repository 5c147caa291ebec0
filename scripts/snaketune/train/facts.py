"""The facts of a finished training for the manifest of its adapter or model."""

import hashlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from snaketune.train.checkpoints.weight_publishing import WEIGHTS, model_weights
from snaketune.train.monitoring.metrics import read_metrics


def training_facts(
    folder: Path,
    metrics: Path,
    base_parameters: int,
    steps: int,
    fingerprint: str,
    origins: dict[str, str],
    versions: dict[str, str],
) -> dict[str, Any]:
    """Return the deterministic facts of a finished training.

    Args:
        folder: the published adapter or model.
        metrics: the run's metrics.jsonl.
        base_parameters: parameters of the base model.
        steps: optimizer steps of the training.
        fingerprint: identity of the training.
        origins: digests of the weights that it started from.
        versions: of the packages that decide the result.
    """
    trained, is_adapter = trained_parameters(folder), (folder / WEIGHTS).is_file()
    lines = [line for line in read_metrics(metrics) if "loss" in line]
    return {
        "steps": steps,
        "train_loss_last": lines[-1]["loss"] if lines else None,
        "tokens": lines[-1]["tokens"] if lines else None,
        "trained": "adapter" if is_adapter else "every weight",
        "trainable_parameters": trained,
        "total_parameters": base_parameters + trained if is_adapter else trained,
        "fingerprint": fingerprint,
        "origins": origins,
        "versions": versions,
    }


def trained_parameters(folder: Path) -> int:
    """Return the number of parameters in the published folder; a tied layer saved twice counts once."""
    files = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else model_weights(folder)
    tensors = [tensor for file in files if file.suffix == ".safetensors" for tensor in _sizes(file)]
    return sum(dict(tensors).values())


def _sizes(file: Path) -> Iterator[tuple[str, int]]:
    """Yield an identity and the size of each tensor; only whole layers saved with an adapter can occur twice."""
    with safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - a safetensors file is not a mapping
            size = prod(opened.get_slice(name).get_shape())
            is_copy = file.name == WEIGHTS and "lora_" not in name
            yield (_digest(opened.get_tensor(name)) if is_copy else name), size


def _digest(tensor: Any) -> str:
    return hashlib.blake2b(tensor.contiguous().float().numpy().data, digest_size=16).hexdigest()
