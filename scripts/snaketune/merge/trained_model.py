"""A fully trained model: nothing to merge, but the same checks and the requested dtype and file size."""

from dataclasses import dataclass
from pathlib import Path

import torch

from snaketune.core.errors import TrainingError
from snaketune.merge.adapter import TRAIN_AGAIN
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.rounding import AUTOMATIC, Rounding
from snaketune.merge.streaming import Weights, target_dtype, write_weights


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The published weights of a full fine-tuning."""

    folder: Path
    weights: Checkpoint


def read_trained_model(folder: Path) -> TrainedModel:
    """Return the trained model in ``folder`` after checking its tensor names.

    Raises:
        TrainingError: if it has no readable weights, or a name was left by a compiler.
    """
    weights = Checkpoint(folder)
    if not weights.dtypes:
        raise TrainingError(f"{folder}: no weights found: {TRAIN_AGAIN}.")
    left = [name for name in weights.dtypes if "_orig_mod." in name]
    if left:
        raise TrainingError(f"{folder}: {left[0]} was saved from a compiled model and matches no other: {TRAIN_AGAIN}.")
    return TrainedModel(folder, weights)


def trained_weights(
    base: Checkpoint, trained: TrainedModel, dtype: torch.dtype | None, rounding: Rounding = AUTOMATIC
) -> Weights:
    """Return the trained weights, rounded once.

    Computing one raises a TrainingError if it is not finite or beyond the range of ``dtype``.

    Args:
        base: the model that training started from.
        trained: the model it became.
        dtype: None takes that of the base's weight of the same name, else of most of them.
        rounding: of the weights.
    """
    weights, usual = trained.weights, base.main_dtype()
    formats = {name: target_dtype(own, dtype or base.dtypes.get(name, usual)) for name, own in weights.dtypes.items()}

    def exact(name: str) -> torch.Tensor:
        found = weights.tensor(name)
        if not bool(torch.isfinite(found).all()):
            raise TrainingError(f"{trained.folder}: {name} is not finite: lower train.learning_rate and {TRAIN_AGAIN}.")
        return found

    def before(name: str) -> torch.Tensor | None:
        is_same = name in base.dtypes and base.shapes[name] == weights.shapes[name]
        return base.tensor(name) if is_same else None

    return Weights(dtype or usual, formats, weights.shapes, frozenset(formats), exact, before, rounding)


def copy_trained(
    base: Checkpoint,
    trained: TrainedModel,
    folder: Path,
    dtype: torch.dtype | None,
    max_shard_bytes: int,
    rounding: Rounding = AUTOMATIC,
) -> torch.dtype:
    """Write the trained weights to the empty ``folder`` in files of that size at most, and return their format."""
    return write_weights(trained_weights(base, trained, dtype, rounding), folder, max_shard_bytes)
