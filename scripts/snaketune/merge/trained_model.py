"""A model all of whose weights were trained: nothing to merge, but the same checks and the files asked for."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from snaketune.common.errors import TrainingError
from snaketune.merge.adapter import AGAIN
from snaketune.merge.checkpoint import Checkpoint, plan_shards, write_shards
from snaketune.merge.streaming import Merged, rounded, target_dtype


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


def copy_trained(
    base: Checkpoint, trained: TrainedModel, folder: Path, dtype: torch.dtype | None, max_shard_bytes: int
) -> Merged:
    """Write the trained weights to ``folder``, rounded once, and return how many differ from the base model's.

    Args:
        base: the model that training started from.
        trained: the model it became.
        folder: an empty folder.
        dtype: number format; None takes that of the base's weight of the same name, else of most of them.
        max_shard_bytes: largest file.

    Raises:
        TrainingError: if a weight is not finite or is beyond the range of ``dtype``.
    """
    weights = trained.weights
    usual = base.main_dtype()
    targets = {name: target_dtype(own, dtype or base.dtypes.get(name, usual)) for name, own in weights.dtypes.items()}
    sizes = {name: prod(weights.shapes[name]) * target.itemsize for name, target in targets.items()}
    changed = 0

    def tensor(name: str) -> torch.Tensor:
        nonlocal changed
        found = weights.tensor(name)
        if not bool(torch.isfinite(found).all()):
            raise TrainingError(f"{trained.folder}: {name} is not finite: lower train.learning_rate and {AGAIN}.")
        result = rounded(found, targets[name], name)
        changed += not (name in base.dtypes and torch.equal(result, base.tensor(name).to(targets[name])))
        return result

    write_shards(folder, plan_shards(sizes, max_shard_bytes), tensor, sizes)
    return Merged(dtype or usual, len(targets), changed)
