"""The streaming merge: base weight plus the adapter's change in float32, rounded once, shard by shard."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from snaketune.core.errors import TrainingError
from snaketune.merge.adapter import TRAIN_AGAIN, LoadedAdapter
from snaketune.merge.checkpoint import FLOATS, Checkpoint, plan_shards, write_shards
from snaketune.merge.rounding import AUTOMATIC, Rounding, nearest


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of the merged model, computed on demand: once for writing and again for verification.

    Attributes:
        dtype: dtype of most of them.
        formats: dtype of each, by name.
        shapes: shape of each.
        trained: names of those that training changed.
        exact: gives the trained weight of a name before rounding, float32.
        base: gives the base model's weight of a name, None where it has none.
        rounding: how trained weights are rounded; all others are rounded to nearest, should they need it.
    """

    dtype: torch.dtype
    formats: Mapping[str, torch.dtype]
    shapes: Mapping[str, tuple[int, ...]]
    trained: frozenset[str]
    exact: Callable[[str], torch.Tensor]
    base: Callable[[str], torch.Tensor | None]
    rounding: Rounding

    def tensor(self, name: str) -> torch.Tensor:
        """Return the weight of a name as it is stored."""
        if name in self.trained:
            return self.rounding.apply(self.exact(name), self.formats[name], name, self.base(name))
        weight = self.before(name)
        assert weight is not None, name
        return weight

    def before(self, name: str) -> torch.Tensor | None:
        """Return the base model's weight of a name in the format that it is stored in, None where it has none."""
        weight = self.base(name)
        return None if weight is None else nearest(weight, self.formats[name], name)


def strangers(base: Checkpoint, adapter: LoadedAdapter) -> list[str]:
    """Return the modules of a plain adapter whose weight the checkpoint does not hold under that name."""
    return [module for module in adapter.modules if f"{module}.weight" not in base.dtypes]


def merged_weight(base: Checkpoint, adapter: LoadedAdapter, module: str) -> torch.Tensor:
    """Return the merged weight of ``module`` in float32, before rounding.

    Raises:
        TrainingError: if the change has another shape than the weight or the sum is not finite.
    """
    weight, change = base.tensor(f"{module}.weight").float(), adapter.change(module)
    # Checked explicitly: broadcasting could make a wrong sum out of vectors.
    if weight.shape != change.shape:
        raise TrainingError(
            f"{adapter.folder}: the change of {module} has shape {list(change.shape)}, its weight in the base model"
            f" {list(weight.shape)}: the adapter belongs to another model; {TRAIN_AGAIN}."
        )
    # Adding -0.0, unlike 0.0, preserves the sign of a zero weight that does not change.
    merged = weight.add_(change.masked_fill_(change == 0, -0.0))
    # float32 holds every 16-bit value, so an overflow comes from the adapter.
    if not bool(torch.isfinite(merged).all()):
        raise TrainingError(
            f"{module}.weight is not finite after merging: lower train.learning_rate and {TRAIN_AGAIN}."
        )
    return merged


def merged_weights(
    base: Checkpoint, adapter: LoadedAdapter, dtype: torch.dtype | None, rounding: Rounding = AUTOMATIC
) -> Weights:
    """Return the weights of base plus adapter.

    Computing one raises a TrainingError if weight and change do not fit or the result is not finite.

    Args:
        base: the unquantised base checkpoint.
        adapter: a plain adapter all of whose modules the checkpoint holds.
        dtype: dtype of the merged weights; None keeps that of each weight.
        rounding: of the weights that the adapter changes.
    """
    modules = {f"{module}.weight": module for module in adapter.modules}
    formats = {name: target_dtype(own, dtype) for name, own in base.dtypes.items()}

    def exact(name: str) -> torch.Tensor:
        return merged_weight(base, adapter, modules[name])

    return Weights(dtype or base.main_dtype(), formats, base.shapes, frozenset(modules), exact, base.tensor, rounding)


def merge_streaming(
    base: Checkpoint,
    adapter: LoadedAdapter,
    folder: Path,
    dtype: torch.dtype | None,
    max_shard_bytes: int,
    rounding: Rounding = AUTOMATIC,
) -> torch.dtype:
    """Write the merged weights to the empty ``folder`` and return their dtype.

    Memory holds the adapter and three float32 copies of one weight, however large the files are.

    Raises:
        TrainingError: if weights and changes do not fit or a result is not finite.
    """
    return write_weights(merged_weights(base, adapter, dtype, rounding), folder, max_shard_bytes)


def write_weights(weights: Weights, folder: Path, max_shard_bytes: int) -> torch.dtype:
    """Write ``weights`` to the empty ``folder``, in files of at most ``max_shard_bytes``, and return their format."""
    sizes = {name: prod(weights.shapes[name]) * target.itemsize for name, target in weights.formats.items()}
    write_shards(folder, plan_shards(sizes, max_shard_bytes), weights.tensor, weights.formats, weights.shapes)
    return weights.dtype


def target_dtype(own: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """Return the dtype that a tensor of format ``own`` is written in; integers stay what they are."""
    return wanted if wanted is not None and own in FLOATS else own
