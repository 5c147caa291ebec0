"""What the adapter's manifest says about the training that made it."""

from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from snaketune.train.metrics import read_metrics
from snaketune.train.publishing import WEIGHTS
from snaketune.train.run import versions


def adapter_facts(adapter: Path, metrics: Path, base_parameters: int, steps: int, fingerprint: str) -> dict[str, Any]:
    """Return the deterministic facts of a finished training.

    Args:
        adapter: the published adapter folder.
        metrics: the run's metrics.jsonl.
        base_parameters: parameters of the base model.
        steps: optimizer steps of the training.
        fingerprint: identity of the training.
    """
    with safe_open(adapter / WEIGHTS, "pt") as file:
        trainable = sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    lines = [line for line in read_metrics(metrics) if "loss" in line]
    return {
        "steps": steps,
        "train_loss_last": lines[-1]["loss"] if lines else None,
        "tokens": lines[-1]["tokens"] if lines else None,
        "trainable_parameters": trainable,
        "total_parameters": base_parameters + trainable,
        "fingerprint": fingerprint,
        "versions": versions(),
    }
