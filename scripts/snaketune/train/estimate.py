"""Estimates for a run on this machine: how long it computes and what fits in memory."""

from typing import Any

import torch

from snaketune.core.errors import PlanError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.plan.devices.hardware import peak_flops
from snaketune.plan.flops import model_flops, shape_of
from snaketune.plan.memory.fitting import choose_checkpointing
from snaketune.plan.memory_settings import setting_of
from snaketune.settings.train_section import TrainSection
from snaketune.settings.training_slices import TrainingSlice
from snaketune.train.device import Device
from snaketune.train.engine import RunEstimate
from snaketune.train.kernels.compiling import pays
from snaketune.train.out_of_memory import memory_gigabytes

# Share of peak FLOP/s that LoRA training of 7-13B models reaches without compilation; published figures: 38-43%.
UTILISATION = 0.4


def estimate_run(model: Any, rows: PackedRows, cfg: TrainingSlice, device: Device) -> RunEstimate:
    """Return the estimate for training ``model`` on ``rows``, computed lazily.

    Args:
        model: the model with its adapter.
        rows: packed training rows.
        cfg: the ``train``, ``adapter`` and ``model`` sections.
        device: where the run computes.
    """
    if device.is_cpu:
        return RunEstimate()
    return RunEstimate(
        lambda: _is_long(model, rows, cfg["train"]), lambda: _least_checkpointing(model, rows, cfg, device)
    )


def _is_long(model: Any, rows: PackedRows, train: TrainSection) -> bool:
    tokens = expected_tokens(rows, train)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    is_full = not hasattr(model, "peft_config")
    try:
        # Attention is left out (no squared lengths): a run that is long without it is long with it.
        flops = model_flops(shape_of(model.config), tokens, 0, 0 if is_full else trained, is_full)
    except PlanError:
        return False
    peak = peak_flops(torch.cuda.get_device_name(), "bfloat16")
    return pays(flops, peak * UTILISATION if peak else None)


def expected_tokens(rows: PackedRows, train: TrainSection) -> int:
    """Return the real tokens that a whole run trains on."""
    total = int(rows.tokens.sum())
    if train["max_steps"] > 0:
        seen = train["max_steps"] * train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
        return total * seen // max(1, len(rows))
    return int(total * train["num_train_epochs"])


def _least_checkpointing(model: Any, rows: PackedRows, cfg: TrainingSlice, device: Device) -> int:
    """Return the largest interval of checkpointed layers that fits; 1 (all layers) if memory cannot be estimated."""
    setting = setting_of(cfg, rows.row_length, device.type, device.has_bf16)
    try:
        return choose_checkpointing(model.config, setting, memory_gigabytes(device)).checkpoint_every
    except PlanError:
        return 1
