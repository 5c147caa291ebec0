"""Inputs and settings of a merge, and the check that adapter and base model belong together."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from snaketune.core.errors import TrainingError
from snaketune.evaluate.models import ModelSettings
from snaketune.facts.model_facts import BASE_WEIGHTS
from snaketune.facts.training_facts import TRAINED
from snaketune.merge.rounding import AUTO, AUTOMATIC, Rounding
from snaketune.settings.merge_section import MergeSection
from snaketune.settings.merge_slices import MergeSlice


@dataclass(frozen=True, slots=True)
class MergeInputs:
    """Paths of the base model, the adapter or trained model, the chat template in use, and the rows for the check.

    Rows are tried in order: those held out first, the training rows where nothing is held out. ``others`` are the
    adapters that are merged together, in the order of ``merge.adapters``; without any the run's own is merged.
    """

    model: Path
    adapter: Path
    template: Path
    rows: tuple[Path, ...]
    others: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class MergeSettings:
    """Dtype of the merged weights (None is the base's own), largest file, how models are loaded, rounding."""

    dtype: torch.dtype | None
    max_shard_size: str
    model: ModelSettings
    rounding: Rounding = AUTOMATIC

    @classmethod
    def of_slice(cls, cfg: MergeSlice) -> "MergeSettings":
        """Return the settings in a configuration slice, whose sections may be nested or flat."""
        own = cast(MergeSection, cfg.get("merge", cfg))
        dtype = None if own["dtype"] == "auto" else getattr(torch, own["dtype"])
        rounding = Rounding(own.get("rounding", AUTO), own.get("seed", 0))
        return cls(dtype, own["max_shard_size"], ModelSettings.of_slice(cfg), rounding)


def check_origin(model: str | Path, adapter: str | Path) -> None:
    """Compare the weights that an adapter was trained on with those of the base model.

    Args:
        model: manifest of the base model, or its folder.
        adapter: manifest of the adapter, or its folder. A folder has no digests and passes.

    Raises:
        TrainingError: if the weights differ.
    """
    if not all(str(path).endswith(".json") for path in (model, adapter)):
        return
    trained_on, base = TRAINED.read(adapter)["origins"].get("base"), BASE_WEIGHTS.read(model)["weights_digest"]
    if trained_on and base and trained_on != base:
        raise TrainingError(
            f"{adapter}: the adapter was trained on different weights ({trained_on[:12]}) than those of {model} "
            f"({base[:12]}): train it again."
        )
