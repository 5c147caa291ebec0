"""A model all of whose weights were trained: nothing to merge, but the same checks and the files asked for."""

from dataclasses import dataclass
from pathlib import Path

import torch

from snaketune.common.errors import TrainingError
from snaketune.merge.adapter import AGAIN
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.streaming import Weights, rounded, target_dtype, write_weights


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The published weights of a full fine-tuning."""

    folder: Path
    weights: Checkpoint


def read_trained_model(folder: Path) -> TrainedModel:
    """Return the trained model in ``folder`` after a look at its names.

    Raises:
        TrainingError: if it has no readable weights, or a name was left by a compiler.
    """
    weights = Checkpoint(folder)
    if not weights.dtypes:
        raise TrainingError(f"{folder}: there are no weights: {AGAIN}.")
    left = [name for name in weights.dtypes if "_orig_mod." in name]
    if left:
        raise TrainingError(f"{folder}: {left[0]} was saved from a compiled model and fits no other: {AGAIN}.")
    return TrainedModel(folder, weights)


def trained_weights(base: Checkpoint, trained: TrainedModel, dtype: torch.dtype | None) -> Weights:
    """Return the trained weights, rounded once.

    Computing one raises a TrainingError if it is not finite or beyond the range of ``dtype``.

    Args:
        base: the model that training started from.
        trained: the model it became.
        dtype: number format; None takes that of the base's weight of the same name, else of most of them.
    """
    weights, usual = trained.weights, base.main_dtype()
    formats = {name: target_dtype(own, dtype or base.dtypes.get(name, usual)) for name, own in weights.dtypes.items()}

    def tensor(name: str) -> torch.Tensor:
        found = weights.tensor(name)
        if not bool(torch.isfinite(found).all()):
            raise TrainingError(f"{trained.folder}: {name} is not finite: lower train.learning_rate and {AGAIN}.")
        return rounded(found, formats[name], name)

    def before(name: str) -> torch.Tensor | None:
        return base.tensor(name).to(formats[name]) if name in base.dtypes else None

    return Weights(dtype or usual, formats, weights.shapes, frozenset(formats), tensor, before)


def copy_trained(
    base: Checkpoint, trained: TrainedModel, folder: Path, dtype: torch.dtype | None, max_shard_bytes: int
) -> torch.dtype:
    """Write the trained weights to the empty ``folder`` in files of that size at most, and return their format."""
    return write_weights(trained_weights(base, trained, dtype), folder, max_shard_bytes)
