"""The floating-point work of training, and which share of the GPU's peak a measured rate is."""

from dataclasses import dataclass

import torch

from snaketune.core.errors import PlanError
from snaketune.plan.flops import ModelShape, model_flops, shape_of
from snaketune.train.device import Device


@dataclass(frozen=True, slots=True)
class TrainingFlops:
    """The model and its adapter as floating-point work.

    Attributes:
        shape: of the model.
        trained: trained parameters.
        full: whether all weights are trained.
        peak: FLOP/s that the GPU can do at most; None when nobody knows.
    """

    shape: ModelShape
    trained: int
    full: bool
    peak: float | None

    def flops(self, tokens: int, squares: int) -> float:
        """Return the FLOPs of forward and backward of ``tokens`` real tokens with these squared document lengths."""
        return model_flops(self.shape, tokens, squares, 0 if self.full else self.trained, self.full)

    def utilization(self, tokens: int, squares: int, seconds: float) -> float | None:
        """Return model FLOPs utilisation, the share of the peak that is put to use; None without a known peak."""
        return round(self.flops(tokens, squares) / seconds / self.peak, 4) if self.peak else None


def training_flops(model: torch.nn.Module, full: bool, device: Device, dtype: torch.dtype) -> TrainingFlops | None:
    """Return the FLOPs of training ``model``, or None for an architecture whose work cannot be counted.

    Args:
        model: the model with its adapter.
        full: whether all weights are trained.
        device: where it is.
        dtype: dtype of its matrix products.
    """
    try:
        shape = shape_of(model.config)
    except PlanError as error:
        print(f"No MFU: {error}", flush=True)
        return None
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return TrainingFlops(shape, trained, full, _peak(device, dtype))


def _peak(device: Device, dtype: torch.dtype) -> float | None:
    if device.is_cpu:
        return None
    from snaketune.plan.devices.hardware import peak_flops

    return peak_flops(torch.cuda.get_device_name(), str(dtype).removeprefix("torch."))
