"""Check of the written weights, read back: each equals the recomputed merge of base model and training, to the bit."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from snaketune.core.errors import TrainingError
from snaketune.merge.adapter import LoadedAdapter
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.rounding import AUTOMATIC, Rounding
from snaketune.merge.streaming import Weights, merged_weights, strangers
from snaketune.merge.trained_model import TrainedModel, trained_weights
from snaketune.merge.verification.exact_sums import Account, is_near, peft_changes, sum_error
from snaketune.merge.with_peft import (
    PeftMerge,
    changed_weights,
    load_whole,
    merge_with_peft,
    round_weights,
    weight_digests,
)

# Limit on the relative error of a weight's change, or of a layer's outputs: correct merges reach 2e-6, a wrong
# scale, sign or missing factor far more.
LARGEST_RELATIVE_ERROR = 1e-4


@dataclass(frozen=True, slots=True)
class Written:
    """Results of the check of a merged model's files.

    Attributes:
        merged: number of trained weights, or of layers that the adapter changes.
        account: how much of the change survived rounding.
        relative_error: of the change of the worst weight, or of the outputs of the worst layer if PEFT merged; None
            after full training.
    """

    merged: int
    account: Account
    relative_error: float | None = None


def is_streamed(base: Checkpoint, adapter: LoadedAdapter) -> bool:
    """Tell whether the adapter is merged weight by weight, or by PEFT in the whole model."""
    return adapter.is_plain and bool(base.dtypes) and not strangers(base, adapter)


def check_written_weights(
    folder: Path,
    base_folder: Path,
    tuned: LoadedAdapter | TrainedModel,
    dtype: torch.dtype | None,
    trust: bool,
    rounding: Rounding = AUTOMATIC,
) -> Written:
    """Compare every weight in the files of ``folder`` with its recomputed value, and return the results.

    Everything is recomputed from the base model and the training's result; memory holds one weight at a time, or the
    whole model in float32 if PEFT merges. The changes of a plain adapter are also compared with those of PEFT.

    Raises:
        TrainingError: naming the first weight that is missing, not finite or different.
    """
    base, written = Checkpoint(base_folder), Checkpoint(folder)
    if left := next((name for name in written.dtypes if "_orig_mod." in name), None):
        raise TrainingError(f"{folder}: {left} is a weight name of a compiled model: merge again.")
    if isinstance(tuned, TrainedModel):
        return _check_trained(folder, written, base, trained_weights(base, tuned, dtype, rounding))
    if is_streamed(base, tuned):
        weights = merged_weights(base, tuned, dtype, rounding)
        return _check_merged(folder, written, base, weights, peft_changes(base_folder, tuned, trust))
    for name in written.dtypes:
        _finite(folder, written, name)
    # The merged model is bound to no name here: it has to be freed before the files are loaded.
    return _check_with_peft(folder, written, base, merge_with_peft(base_folder, tuned, dtype, trust), rounding, trust)


def _check_trained(folder: Path, written: Checkpoint, base: Checkpoint, weights: Weights) -> Written:
    account = Account()
    for name, found in _compared(folder, written, weights):
        account.add(found, weights.before(name))
        if name in base.dtypes and base.shapes[name] == weights.shapes[name] and found.is_floating_point():
            weight = base.tensor(name).float()
            account.project(found, weight, weights.exact(name).float() - weight)
    return Written(len(weights.trained), account)


def _check_merged(
    folder: Path,
    written: Checkpoint,
    base: Checkpoint,
    weights: Weights,
    change_of: Callable[[str], torch.Tensor],
) -> Written:
    account, worst = Account(), 0.0
    for name, found in _compared(folder, written, weights):
        if name not in weights.trained:
            continue
        account.add(found, weights.before(name))
        weight, change = base.tensor(name).float(), change_of(name.removesuffix(".weight"))
        worst = max(worst, sum_error(weights.exact(name), weight, change))
        account.project(found, weight, change)
        if worst < LARGEST_RELATIVE_ERROR and not is_near(found, weight, change):
            raise TrainingError(
                f"{folder}: {name} is more than one rounding step of {str(found.dtype).removeprefix('torch.')} away "
                "from base plus change: report this with the adapter, and set merge.enabled to false."
            )
    return Written(len(weights.trained), account, worst)


def _check_with_peft(
    folder: Path, written: Checkpoint, base: Checkpoint, merge: PeftMerge, rounding: Rounding, trust: bool
) -> Written:
    account, layers, error = Account(), merge.layers, merge.error
    exact, names = dict(merge.model.named_parameters()), changed_weights(merge)
    for name in names:
        if name in written.dtypes and name in base.dtypes:
            found, weight = written.tensor(name), base.tensor(name)
            account.add(found, weight.to(found.dtype))
            account.project(found, weight.float(), exact[name].detach() - weight.float())
        else:  # the files name it differently: vision-language models, experts that are fused in memory
            account.add(written.tensor(name) if name in written.dtypes else exact[name].detach(), None)
    del exact
    round_weights(merge, base, rounding)
    wanted = weight_digests(merge.model)
    del merge
    loaded = weight_digests(load_whole(folder, trust), _only_format(folder, written))
    _check_names(folder, wanted, loaded)
    if wrong := next((name for name in wanted if wanted[name] != loaded[name]), None):
        raise _damaged(folder, wrong)
    return Written(layers or len(names), account, error)


def _compared(folder: Path, written: Checkpoint, weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each weight in the files after checking that it equals the recomputed one, to the bit."""
    _check_names(folder, weights.formats, written.dtypes)
    for name, format in weights.formats.items():
        found = _finite(folder, written, name)
        if found.dtype != format or not same_bits(found, weights.tensor(name)):
            raise _damaged(folder, name)
        yield name, found


def _finite(folder: Path, written: Checkpoint, name: str) -> torch.Tensor:
    found = written.tensor(name)
    if not bool(torch.isfinite(found).all()):
        raise TrainingError(f"{folder}: {name} contains non-finite numbers: try again, and check the base model.")
    return found


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors of one dtype have the same shape and bits; ``torch.equal`` treats -0.0 as 0.0."""
    flat = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return one.shape == other.shape and torch.equal(*flat)


def _check_names(folder: Path, wanted: Mapping[str, object], found: Mapping[str, object]) -> None:
    if strays := sorted(set(wanted) ^ set(found)):
        raise TrainingError(
            f"{folder}: {len(strays)} weights are missing or belong to another model; the first is {strays[0]}: try"
            " again."
        )


def _damaged(folder: Path, name: str) -> TrainingError:
    return TrainingError(f"{folder}: {name} differs from what was merged: disk or memory may be faulty; try again.")


def _only_format(folder: Path, written: Checkpoint) -> torch.dtype:
    formats = {format for format in written.dtypes.values() if format.is_floating_point}
    if len(formats) != 1:
        raise TrainingError(f"{folder}: the weights have the dtypes {formats}: try again.")
    return formats.pop()
