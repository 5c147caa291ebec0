"""Out of memory: what the run needs, part by part, and the next smaller setting, instead of a traceback."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from snaketune.common.errors import SnaketuneError, TrainingError
from snaketune.train.device import Device

GIGA = 1e9
# What torch says when the memory of the machine is used up; it has no exception of its own for that.
CPU_ALLOCATOR = "can't allocate memory"


@contextmanager
def explaining_shortage(explain: Callable[[], str]) -> Iterator[None]:
    """Turn running out of memory into one sentence, made by ``explain``.

    Raises:
        TrainingError: if memory runs out in the block.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        if CPU_ALLOCATOR not in str(error):
            raise
    else:
        return
    # Outside of the handler: its traceback would keep the tensors of the failed step alive.
    raise TrainingError(f"memory ran out: {explain()}; the last checkpoint is kept and nothing is published.")


def memory_gigabytes(device: Device) -> float:
    """Return the memory of the GPU, or of the machine, in GB (1e9 bytes)."""
    if device.is_cpu:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIGA
    return torch.cuda.get_device_properties(0).total_memory / GIGA


def advise(model_folder: Path, row_length: int, cfg: dict[str, Any], device: Device) -> str:
    """Return what the run needs against what there is, and the next smaller setting."""
    there = memory_gigabytes(device)
    try:
        return _plan(model_folder, row_length, cfg, device, there)
    except SnaketuneError as error:
        return (
            f"this machine has {there:.1f} GB and the need of the run cannot be planned ({str(error).rstrip('.')}):"
            " lower train.per_device_train_batch_size, raising train.gradient_accumulation_steps as much, or"
            " tokens.max_length"
        )


def _plan(model_folder: Path, row_length: int, cfg: dict[str, Any], device: Device, there: float) -> str:
    from transformers import AutoConfig

    from snaketune.plan.fitting import choose_checkpointing, next_smaller_setting
    from snaketune.plan.memory import memory_plan
    from snaketune.plan.settings import setting_of

    allowed = cfg["model"].get("trust_remote_code", False)
    config = AutoConfig.from_pretrained(str(model_folder), local_files_only=True, trust_remote_code=allowed)
    setting = setting_of(cfg, row_length, device.type, device.has_bf16)
    if cfg["train"]["gradient_checkpointing"] == "auto" and not device.is_cpu:
        setting = replace(setting, checkpoint_every=choose_checkpointing(config, setting, there).checkpoint_every)
    plan = memory_plan(config, setting)
    # It did not fit, whatever the plan says: the next setting has to need less than this one.
    smaller = next_smaller_setting(config, setting, min(there, plan.total))
    change = smaller.sentence() if smaller else "use a smaller model or a device with more memory"
    return f"the run needs {plan.describe()}, and there are {there:.1f} GB: {change}"
