"""The merge of adapters that are not plain LoRA: by PEFT in float32, then rounded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import Linear

from snaketune.core.errors import TrainingError
from snaketune.evaluate.models import ModelSettings, attach_adapter, load_model
from snaketune.merge.adapter import TRAIN_AGAIN, LoadedAdapter
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.merge_inputs import MergeSettings
from snaketune.merge.rounding import NEAREST, Rounding
from snaketune.model.reward_model import is_reward_model

PROBE_ROWS = 8


@dataclass(frozen=True, slots=True)
class PeftMerge:
    """A model that PEFT merged.

    Attributes:
        model: the merged model, float32 on the CPU.
        dtype: dtype that it is to be written in.
        before: digest of each weight of the base model in float32.
        layers: adapted linear layers.
        error: largest relative error of their outputs against those before merging, None without such layers.
    """

    model: Any
    dtype: torch.dtype
    before: dict[str, str]
    layers: int
    error: float | None


def merge_with_peft(base_folder: Path, adapter: LoadedAdapter, dtype: torch.dtype | None, trust: bool) -> PeftMerge:
    """Return the merged model; memory holds all of it in float32.

    Args:
        base_folder: the base model.
        adapter: any adapter that PEFT can merge.
        dtype: dtype of the merged weights; None takes that of most base weights.
        trust: whether code that comes with the model may run.

    Raises:
        TrainingError: if PEFT cannot merge the adapter or a result is not finite.
    """
    model = load_whole(base_folder, trust, is_reward_model(adapter.folder))
    target = dtype or own_dtype(base_folder, model)
    # Digests instead of a copy of the weights, which would double the memory.
    before = weight_digests(model)
    tuned = attach_adapter(model, adapter.folder)
    # Before merging: the merge replaces the layers in place.
    answers = _answers(tuned)
    try:
        merged: Any = tuned.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise TrainingError(f"{adapter.folder}: PEFT cannot merge this adapter ({error}): {TRAIN_AGAIN}.") from None
    worst = max((_error(merged.get_submodule(name), *pair) for name, pair in answers.items()), default=None)
    return PeftMerge(merged, target, before, len(answers), worst)


def write_with_peft(base_folder: Path, adapter: LoadedAdapter, folder: Path, settings: MergeSettings) -> torch.dtype:
    """Write the merged model to the empty ``folder`` in files of the size that is set; return its format."""
    merge = merge_with_peft(base_folder, adapter, settings.dtype, settings.model.trust_remote_code)
    round_weights(merge, Checkpoint(base_folder), settings.rounding)
    merge.model.to(merge.dtype).save_pretrained(folder, max_shard_size=settings.max_shard_size)
    return merge.dtype


def changed_weights(merge: PeftMerge) -> list[str]:
    """Return the names of the weights of a merged model, still in float32, that are not those of its base model."""
    return [name for name, digest in weight_digests(merge.model).items() if digest != merge.before.get(name)]


def round_weights(merge: PeftMerge, base: Checkpoint, rounding: Rounding) -> None:
    """Round every weight of a merged model in place to its format.

    Weights that training did not change are rounded to nearest: in the base model's own dtype they keep their bytes.
    """
    changed = frozenset(changed_weights(merge))
    for name, weight in merge.model.named_parameters():
        rule = rounding if name in changed else Rounding(NEAREST)
        before = base.tensor(name) if base.shapes.get(name) == tuple(weight.shape) else None
        weight.data = rule.apply(weight.data, merge.dtype, name, before)


def load_whole(folder: Path, trust: bool, scores: bool = False) -> Any:
    """Return the model in ``folder`` in float32 on the CPU, with ``scores`` as a reward model."""
    settings = ModelSettings(dtype="float32", trust_remote_code=trust, scores=scores)
    return load_model(folder, settings, torch.device("cpu"))


def own_dtype(folder: Path, model: Any) -> torch.dtype:
    """Return the dtype of the base checkpoint, from its files or, for old formats, its configuration."""
    checkpoint = Checkpoint(folder)
    return checkpoint.main_dtype() if checkpoint.dtypes else model.config.dtype or torch.float32


@torch.no_grad()
def _answers(tuned: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return random inputs and the adapted outputs of every adapted linear layer, by its name in the base model."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, module in tuned.get_base_model().named_modules():
        if isinstance(module, Linear):
            inputs = torch.randn(PROBE_ROWS, module.in_features or 0, generator=generator)
            found[name] = (inputs, module(inputs))
    return found


@torch.no_grad()
def _error(module: Any, inputs: torch.Tensor, expected: torch.Tensor) -> float:
    return float((module(inputs) - expected).norm() / expected.norm())


def weight_digests(model: Any, dtype: torch.dtype | None = None) -> dict[str, str]:
    """Return a digest of each weight of ``model``, in the dtype that it is in or in ``dtype``."""
    found = {}
    for name, weight in model.named_parameters():
        content = weight.detach().to(dtype or weight.dtype).contiguous().reshape(-1).view(torch.uint8).numpy().data
        found[name] = hashlib.blake2b(content, digest_size=16).hexdigest()
    return found
