"""The merge for adapters that are more than two matrices per weight: PEFT's own, in float32, then rounded."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import Linear

from snaketune.common.errors import TrainingError
from snaketune.evaluate.models import ModelSettings, attach_adapter, load_model
from snaketune.merge.adapter import AGAIN, Adapter
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.streaming import Merged, rounded

PROBES = 8


def merge_with_peft(
    base_folder: Path, adapter: Adapter, folder: Path, dtype: torch.dtype | None, max_shard_size: str, trust: bool
) -> Merged:
    """Write the merged model to ``folder``; memory holds the whole model in float32.

    Args:
        base_folder: the base model.
        adapter: any adapter that PEFT can merge.
        folder: an empty folder.
        dtype: number format of the merged weights; None takes that of most base weights.
        max_shard_size: largest file, such as ``5GB``.
        trust: whether code that comes with the model may run.

    Raises:
        TrainingError: if PEFT cannot merge the adapter or a result is not finite.
    """
    settings = ModelSettings(dtype="float32", trust_remote_code=trust)
    model = load_model(base_folder, settings, torch.device("cpu"))
    target = dtype or own_dtype(base_folder, model)
    before = _digests(model, target)
    tuned = attach_adapter(model, adapter.folder)
    answers = _answers(tuned)
    try:
        merged = tuned.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise TrainingError(f"{adapter.folder}: PEFT cannot merge this adapter ({error}): {AGAIN}.") from None
    worst = max((_error(merged.get_submodule(name), *pair) for name, pair in answers.items()), default=None)
    after = _digests(merged, target)
    changed = sum(digest != before.get(name) for name, digest in after.items())
    merged.to(target).save_pretrained(folder, max_shard_size=max_shard_size)
    return Merged(target, len(answers) or changed, changed, worst)


def own_dtype(folder: Path, model: Any) -> torch.dtype:
    """Return the number format of the base checkpoint, from its files or, for old formats, its configuration."""
    checkpoint = Checkpoint(folder)
    return checkpoint.main_dtype() if checkpoint.dtypes else model.config.dtype or torch.float32


@torch.no_grad()
def _answers(tuned: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return random inputs and the adapted outputs of every adapted linear layer, by its name in the base model."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, module in tuned.get_base_model().named_modules():
        if isinstance(module, Linear):
            inputs = torch.randn(PROBES, module.in_features or 0, generator=generator)
            found[name] = (inputs, module(inputs))
    return found


@torch.no_grad()
def _error(module: Any, inputs: torch.Tensor, expected: torch.Tensor) -> float:
    return float((module(inputs) - expected).norm() / expected.norm())


def _digests(model: Any, dtype: torch.dtype) -> dict[str, str]:
    found = {}
    for name, weight in model.named_parameters():
        content = rounded(weight.detach(), dtype, name).contiguous().view(torch.uint8).numpy().data
        found[name] = hashlib.blake2b(content, digest_size=16).hexdigest()
    return found
