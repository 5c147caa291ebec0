"""FLOPs of training, and model FLOPs utilisation (MFU): the fraction of the GPU's peak that they reach."""

from dataclasses import dataclass

import torch

from snaketune.core.errors import PlanError
from snaketune.plan.flops import ModelShape, model_flops, shape_of
from snaketune.train.device import Device


@dataclass(frozen=True, slots=True)
class TrainingFlops:
    """What determines the FLOPs of training a model, and the peak to compare them with.

    Attributes:
        shape: of the model.
        trained: number of trained parameters.
        full: whether all weights are trained.
        peak: peak FLOP/s of the GPU; None if unknown.
    """

    shape: ModelShape
    trained: int
    full: bool
    peak: float | None

    def flops(self, tokens: int, squares: int) -> float:
        """Return the FLOPs of forward and backward pass over ``tokens`` real tokens with these squared lengths."""
        return model_flops(self.shape, tokens, squares, 0 if self.full else self.trained, self.full)

    def utilization(self, tokens: int, squares: int, seconds: float) -> float | None:
        """Return MFU (Chowdhery et al. 2022, arXiv:2204.02311, appendix B); None if the peak is unknown.

        Recomputed activations do not count as model FLOPs.
        """
        return round(self.flops(tokens, squares) / seconds / self.peak, 4) if self.peak else None


def training_flops(model: torch.nn.Module, full: bool, device: Device, dtype: torch.dtype) -> TrainingFlops | None:
    """Return the FLOPs of training ``model``, or None for an architecture whose FLOPs cannot be counted.

    Args:
        model: the model with its adapter.
        full: whether all weights are trained.
        device: the device of the run.
        dtype: dtype of the matrix products.
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
