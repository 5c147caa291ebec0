"""An independent computation of merged weights: the base weight plus the change that PEFT computes for it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft.tuners.lora.layer import LoraLayer

from snaketune.core.errors import TrainingError
from snaketune.evaluate.models import attach_adapter
from snaketune.merge.adapter import TRAIN_AGAIN, LoadedAdapter
from snaketune.merge.combining import hollow_model
from snaketune.merge.rounding import step_of

SUM_NOISE = 2.0**-23  # relative rounding error of a sum: one step of float32
# Relative error of PEFT's change, a product in float32 over the rank: about six digits, with room.
CHANGE_NOISE = 1e-4
# Where the terms of such a product cancel, the error is relative to the terms: a fraction of the largest change.
CANCELLATION_NOISE = 1e-5


@dataclass(slots=True)
class Account:
    """Account of how much of the trained change survives rounding.

    Attributes:
        tensors: trained tensors.
        changed: those of them that differ from the base model's as stored.
        weights: numbers in the trained tensors.
        moved: those of them that differ from the base model's as stored.
        along: inner product of stored and exact change, over all weights.
        length: squared norm of the exact change, over all weights.
    """

    tensors: int = 0
    changed: int = 0
    weights: int = 0
    moved: int = 0
    along: float = 0.0
    length: float = 0.0

    def add(self, found: torch.Tensor, before: torch.Tensor | None) -> None:
        """Count a trained tensor as stored; ``before`` is the base model's in the same dtype, None if it has none."""
        moved = found.numel() if before is None else int((found != before).sum())
        self.tensors, self.changed = self.tensors + 1, self.changed + bool(moved)
        self.weights, self.moved = self.weights + found.numel(), self.moved + moved

    def project(self, found: torch.Tensor, weight: torch.Tensor, change: torch.Tensor) -> None:
        """Add the projection of the stored change, ``found - weight``, on the exact ``change`` (both float32)."""
        stored = found.float() - weight
        # Sums over a hundred million products: float32 would stop adding the small ones.
        self.along += float((stored * change).sum(dtype=torch.float64))
        self.length += float((change * change).sum(dtype=torch.float64))

    @property
    def kept(self) -> float | None:
        """The fraction of the change that the stored weights hold, 1 if nothing is lost; None without a change.

        It is the coefficient of the exact change in the stored one, so that unbiased rounding errors do not lower it.
        """
        return self.along / self.length if self.length else None


def peft_changes(base_folder: Path, adapter: LoadedAdapter, trust: bool) -> Callable[[str], torch.Tensor]:
    """Return a function from a module's name to PEFT's change of its weight, float32; no base weights are loaded.

    Raises:
        TrainingError: if PEFT changes other modules than those of ``adapter``.
    """
    tuned = attach_adapter(hollow_model(base_folder, trust), adapter.folder)
    layers = {name: part for name, part in tuned.get_base_model().named_modules() if isinstance(part, LoraLayer)}
    if strays := sorted(set(layers) ^ set(adapter.modules)):
        raise TrainingError(
            f"{adapter.folder}: {len(strays)} modules are changed by only one of PEFT and the merge; the first is"
            f" {strays[0]}: {TRAIN_AGAIN}."
        )
    return lambda module: layers[module].get_delta_weight("default").detach().float().cpu()  # type: ignore[attr-defined]


def sum_error(exact: torch.Tensor, weight: torch.Tensor, change: torch.Tensor) -> float:
    """Return the relative error of the change in ``exact`` against ``change``, beyond the rounding of float32.

    Args:
        exact: the merged weight before rounding, float32.
        weight: the base model's weight, float32.
        change: the independently computed change, float32.
    """
    norm = torch.linalg.vector_norm
    # The difference of two nearly equal numbers keeps the rounding error of the larger; that part is no error of the
    # change.
    off = float(norm((exact - weight) - change)) - SUM_NOISE * float(norm(exact))
    length = float(norm(change))
    if off <= 0:
        return 0.0
    return off / length if length else float("inf")


def is_near(found: torch.Tensor, weight: torch.Tensor, change: torch.Tensor) -> bool:
    """Tell whether each stored number is within one step of its dtype of the sum (stochastic rounding may go up)."""
    total = weight + change
    step = torch.maximum(step_of(total, found.dtype), step_of(found, found.dtype))
    room = step * 1.001 + SUM_NOISE * total.abs() + CHANGE_NOISE * change.abs()
    room += CANCELLATION_NOISE * float(change.abs().max())
    return bool(((found.float() - total).abs() <= room).all())
