"""The sums behind merged weights, formed a second way: PEFT's change of each weight, added to the base model's."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft.tuners.lora.layer import LoraLayer

from snaketune.core.errors import TrainingError
from snaketune.evaluate.models import attach_adapter
from snaketune.merge.adapter import AGAIN, Adapter
from snaketune.merge.combining import hollow_model
from snaketune.merge.rounding import step_of

FLOAT32_NOISE = 2.0**-23  # of a sum, in relation to its size: one step of float32
# PEFT multiplies in float32, so that its change is known to about six digits.
CHANGE_NOISE = 1e-4
# Where the products that make up a change cancel, its error is that of the products: a part of the largest change.
CANCELLATION_NOISE = 1e-5


@dataclass(slots=True)
class Account:
    """What rounding made of the trained weights.

    Attributes:
        tensors: trained tensors.
        changed: those that are stored otherwise than the base model's.
        weights: numbers in the trained tensors.
        moved: those that are stored otherwise than the base model's.
        along: product of the stored change with the exact one, summed over all.
        length: square of the exact change, summed over all.
    """

    tensors: int = 0
    changed: int = 0
    weights: int = 0
    moved: int = 0
    along: float = 0.0
    length: float = 0.0

    def add(self, found: torch.Tensor, before: torch.Tensor | None) -> None:
        """Count a trained tensor as stored, beside the base model's in the same format; None where it has none."""
        moved = found.numel() if before is None else int((found != before).sum())
        self.tensors, self.changed = self.tensors + 1, self.changed + bool(moved)
        self.weights, self.moved = self.weights + found.numel(), self.moved + moved

    def project(self, found: torch.Tensor, weight: torch.Tensor, change: torch.Tensor) -> None:
        """Add how much of the exact ``change`` of ``weight``, both float32, is in the tensor ``found``."""
        stored = found.float() - weight
        self.along += float((stored * change).sum(dtype=torch.float64))
        self.length += float((change * change).sum(dtype=torch.float64))

    @property
    def kept(self) -> float | None:
        """The part of the change that is in the stored weights: 1 where nothing is lost; None without a change."""
        return self.along / self.length if self.length else None


def peft_changes(base_folder: Path, adapter: Adapter, trust: bool) -> Callable[[str], torch.Tensor]:
    """Return what gives PEFT's own change of the weight of a module, float32; it needs none of the base's weights.

    Raises:
        TrainingError: if PEFT changes other modules than ``adapter`` says.
    """
    tuned = attach_adapter(hollow_model(base_folder, trust), adapter.folder)
    layers = {name: part for name, part in tuned.get_base_model().named_modules() if isinstance(part, LoraLayer)}
    if strays := sorted(set(layers) ^ set(adapter.modules)):
        raise TrainingError(
            f"{adapter.folder}: {len(strays)} modules are changed by only one of PEFT and the merge; the first is"
            f" {strays[0]}: {AGAIN}."
        )
    return lambda module: layers[module].get_delta_weight("default").detach().float().cpu()  # type: ignore[attr-defined]


def sum_error(exact: torch.Tensor, weight: torch.Tensor, change: torch.Tensor) -> float:
    """Return how far the change in ``exact`` is from ``change``, relative to that, beyond float32's own rounding.

    Args:
        exact: the merged weight before rounding, float32.
        weight: the base model's, float32.
        change: the right change, float32.
    """
    norm = torch.linalg.vector_norm
    off = float(norm((exact - weight) - change)) - FLOAT32_NOISE * float(norm(exact))
    length = float(norm(change))
    if off <= 0:
        return 0.0
    return off / length if length else float("inf")


def is_near(found: torch.Tensor, weight: torch.Tensor, change: torch.Tensor) -> bool:
    """Tell whether each stored number is at most one step of its format away from the sum."""
    total = weight + change
    step = torch.maximum(step_of(total, found.dtype), step_of(found, found.dtype))
    room = step * 1.001 + FLOAT32_NOISE * total.abs() + CHANGE_NOISE * change.abs()
    room += CANCELLATION_NOISE * float(change.abs().max())
    return bool(((found.float() - total).abs() <= room).all())
