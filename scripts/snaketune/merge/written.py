"""The written weights, read back: each is, to the bit, what the base model and the training make of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from snaketune.common.errors import TrainingError
from snaketune.merge.adapter import Adapter
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.streaming import Weights, merged_weights, strangers
from snaketune.merge.trained_model import TrainedModel, trained_weights
from snaketune.merge.with_peft import load_whole, merge_with_peft, weight_digests


@dataclass(frozen=True, slots=True)
class Written:
    """What the files of a merged model hold.

    Attributes:
        merged: weights that were trained, or have a change from the adapter.
        changed: those that differ from the base model's after rounding.
        relative_error: of the adapted layers' outputs, where PEFT merged; None where layers are compared one by one.
    """

    merged: int
    changed: int
    relative_error: float | None = None


def is_streamed(base: Checkpoint, adapter: Adapter) -> bool:
    """Tell whether the adapter is merged weight by weight, or by PEFT in the whole model."""
    return adapter.is_plain and bool(base.dtypes) and not strangers(base, adapter)


def check_written(
    folder: Path, base_folder: Path, tuned: Adapter | TrainedModel, dtype: torch.dtype | None, trust: bool
) -> Written:
    """Return what was merged in ``folder`` after comparing every weight in its files with what it must be.

    All is computed once more from the base model and what was trained; one weight is in memory at a time, or the
    whole model in float32 where PEFT merges.

    Raises:
        TrainingError: naming the first weight that is missing, not finite, or not what it must be.
    """
    base, written = Checkpoint(base_folder), Checkpoint(folder)
    if left := next((name for name in written.dtypes if "_orig_mod." in name), None):
        raise TrainingError(f"{folder}: {left} is a name from a compiled model, which no other has: merge again.")
    if isinstance(tuned, TrainedModel):
        return _compare(folder, written, trained_weights(base, tuned, dtype))
    if is_streamed(base, tuned):
        return _compare(folder, written, merged_weights(base, tuned, dtype))
    for name in written.dtypes:
        _finite(folder, written, name)
    merge = merge_with_peft(base_folder, tuned, dtype, trust)
    wanted = weight_digests(merge.model, merge.dtype)
    changed = sum(digest != merge.before.get(name) for name, digest in wanted.items())
    layers, error = merge.layers or changed, merge.error
    del merge
    found = weight_digests(load_whole(folder, trust), _only_format(folder, written))
    _check_names(folder, wanted, found)
    if wrong := next((name for name in wanted if wanted[name] != found[name]), None):
        raise _damaged(folder, wrong)
    return Written(layers, changed, error)


def _compare(folder: Path, written: Checkpoint, weights: Weights) -> Written:
    _check_names(folder, weights.formats, written.dtypes)
    changed = 0
    for name, format in weights.formats.items():
        found = _finite(folder, written, name)
        if found.dtype != format or not same_bits(found, weights.tensor(name)):
            raise _damaged(folder, name)
        before = weights.before(name) if name in weights.trained else found
        changed += before is None or not torch.equal(found, before)
    return Written(len(weights.trained), changed)


def _finite(folder: Path, written: Checkpoint, name: str) -> torch.Tensor:
    found = written.tensor(name)
    if not bool(torch.isfinite(found).all()):
        raise TrainingError(
            f"{folder}: {name} holds numbers that are not finite: try again, and look at the base model."
        )
    return found


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors of one format have the same shape and bits; ``torch.equal`` takes -0.0 for 0.0."""
    flat = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return one.shape == other.shape and torch.equal(*flat)


def _check_names(folder: Path, wanted: Mapping[str, object], found: Mapping[str, object]) -> None:
    if strays := sorted(set(wanted) ^ set(found)):
        raise TrainingError(
            f"{folder}: {len(strays)} weights are missing or belong to another model, the first is {strays[0]}: try"
            " again."
        )


def _damaged(folder: Path, name: str) -> TrainingError:
    return TrainingError(f"{folder}: {name} is not what was merged: the disk or the memory is at fault, try again.")


def _only_format(folder: Path, written: Checkpoint) -> torch.dtype:
    formats = {format for format in written.dtypes.values() if format.is_floating_point}
    if len(formats) != 1:
        raise TrainingError(f"{folder}: the weights have the formats {formats}: try again.")
    return formats.pop()
