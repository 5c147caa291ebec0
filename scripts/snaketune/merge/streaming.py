"""The streaming merge: base weights plus the adapter's change, in float32, rounded once, shard by shard."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from snaketune.common.errors import TrainingError
from snaketune.merge.adapter import AGAIN, Adapter
from snaketune.merge.checkpoint import FLOATS, Checkpoint, plan_shards, write_shards


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did.

    Attributes:
        dtype: number format of most merged weights.
        tensors_merged: weights that the adapter has a change for.
        tensors_changed: those of them that differ from the base after rounding.
        relative_error: of the merged layers' outputs in float32 against the adapter's, where the merge itself
            measured it; None where :mod:`snaketune.merge.verify` does.
    """

    dtype: torch.dtype
    tensors_merged: int
    tensors_changed: int
    relative_error: float | None = None


def strangers(base: Checkpoint, adapter: Adapter) -> list[str]:
    """Return the modules of a plain adapter whose weight the checkpoint does not hold under that name."""
    return [module for module in adapter.modules if f"{module}.weight" not in base.dtypes]


def merged_weight(base: Checkpoint, adapter: Adapter, module: str) -> torch.Tensor:
    """Return the merged weight of ``module`` in float32, before rounding.

    Raises:
        TrainingError: if the change has another shape than the weight or the sum is not finite.
    """
    weight, change = base.tensor(f"{module}.weight").float(), adapter.change(module)
    if weight.shape != change.shape:
        raise TrainingError(
            f"{adapter.folder}: the change of {module} has shape {list(change.shape)}, its weight in the base model"
            f" {list(weight.shape)}: the adapter belongs to another model; {AGAIN}."
        )
    merged = weight.add_(change)
    if not bool(torch.isfinite(merged).all()):
        raise TrainingError(f"{module}.weight is not finite after merging: lower train.learning_rate and {AGAIN}.")
    return merged


def merge_streaming(
    base: Checkpoint, adapter: Adapter, folder: Path, dtype: torch.dtype | None, max_shard_bytes: int
) -> Merged:
    """Write the merged weights to ``folder`` and return what was done.

    Memory holds the adapter, one output shard and three float32 copies of one weight.

    Args:
        base: the unquantised base checkpoint.
        adapter: a plain adapter all of whose modules the checkpoint holds.
        folder: an empty folder.
        dtype: number format of the merged weights; None keeps that of each weight.
        max_shard_bytes: largest file.

    Raises:
        TrainingError: if weights and changes do not fit, a result is not finite, or rounding undoes all changes.
    """
    modules = {f"{module}.weight": module for module in adapter.modules}
    targets = {name: target_dtype(own, dtype) for name, own in base.dtypes.items()}
    sizes = {name: prod(base.shapes[name]) * target.itemsize for name, target in targets.items()}
    changed = 0

    def tensor(name: str) -> torch.Tensor:
        nonlocal changed
        if name not in modules:
            return rounded(base.tensor(name), targets[name], name)
        result = rounded(merged_weight(base, adapter, modules[name]), targets[name], name)
        changed += not torch.equal(result, base.tensor(name).to(targets[name]))
        return result

    write_shards(folder, plan_shards(sizes, max_shard_bytes), tensor, sizes)
    return Merged(dtype or base.main_dtype(), len(modules), changed)


def target_dtype(own: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """Return the number format that a tensor of format ``own`` is written in; integers stay what they are."""
    return wanted if wanted is not None and own in FLOATS else own


def rounded(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """Return the tensor in ``dtype``.

    Raises:
        TrainingError: if a finite number is beyond the range of ``dtype``.
    """
    result = tensor.to(dtype)
    if dtype == torch.float16 and not bool(torch.isfinite(result).all()):
        raise TrainingError(f"{name} holds numbers beyond the range of float16: set merge.dtype to bfloat16.")
    return result
