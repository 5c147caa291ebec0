"""Explains running out of memory: the run's memory by part and the next smaller setting, instead of a traceback."""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from snaketune.core.errors import SnaketuneError, TrainingError
from snaketune.settings.training_slices import TrainingSlice
from snaketune.train.device import Device

BYTES_PER_GB = 1e9
# Error messages for exhausted memory besides torch's own exception: torch on RAM, CUDA, its libraries (cuBLAS cannot
# create its handle), Triton, NCCL, and a loader process killed by the system.
OUT_OF_MEMORY_TEXTS = (
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "is killed by signal: Killed",
    "insufficient shared memory (shm)",
)


class MemoryExhaustedError(TrainingError):
    """Memory ran out."""


@contextmanager
def explaining_out_of_memory(explain: Callable[[], str]) -> Iterator[None]:
    """Turn an out-of-memory error into one sentence, made by ``explain``.

    Raises:
        MemoryExhaustedError: if memory runs out in the block.
    """
    try:
        yield
    except SnaketuneError:
        raise
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        forget_frames(error)
    else:
        return
    # Raised outside the handler, whose traceback would keep the tensors of the failed step alive.
    raise MemoryExhaustedError(f"out of memory: {explain()}; the last checkpoint is kept and nothing is published.")


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error, or one in its chain of causes, means that memory ran out.

    torch's exception covers its own allocator only, and compilation wraps the exceptions of kernels.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    if isinstance(error, RuntimeError | OSError) and any(words.lower() in said for words in OUT_OF_MEMORY_TEXTS):
        return True
    before = error.__cause__ or error.__context__
    return before is not None and ran_out_of_memory(before)


def forget_frames(error: BaseException | None) -> None:
    """Clear the local variables of an error's frames, which hold the tensors of the failed step.

    Later handlers, such as contextlib's frames, would keep them alive through the traceback.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def memory_gigabytes(device: Device) -> float:
    """Return the memory of the GPU, or of the machine, in GB (1e9 bytes)."""
    if device.is_cpu:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / BYTES_PER_GB
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / BYTES_PER_GB


def advise_smaller(model_folder: Path, row_length: int, cfg: TrainingSlice, device: Device) -> str:
    """Return needed and available memory, and the next smaller setting."""
    there = memory_gigabytes(device)
    try:
        return _plan(model_folder, row_length, cfg, device, there)
    except SnaketuneError as error:
        return (
            f"this machine has {there:.1f} GB and the run's memory cannot be estimated ({str(error).rstrip('.')}):"
            " lower train.per_device_train_batch_size, raising train.gradient_accumulation_steps by the same factor, "
            "or lower tokens.max_length"
        )


def _plan(model_folder: Path, row_length: int, cfg: TrainingSlice, device: Device, there: float) -> str:
    from transformers import AutoConfig

    from snaketune.plan.memory.fitting import choose_checkpointing, next_smaller_setting
    from snaketune.plan.memory.memory import memory_plan
    from snaketune.plan.memory_settings import setting_of

    allowed = cfg["model"].get("trust_remote_code", False)
    config = AutoConfig.from_pretrained(str(model_folder), local_files_only=True, trust_remote_code=allowed)
    setting = setting_of(cfg, row_length, device.type, device.has_bf16)
    if cfg["train"]["gradient_checkpointing"] == "auto" and not device.is_cpu:
        setting = replace(setting, checkpoint_every=choose_checkpointing(config, setting, there).checkpoint_every)
    plan = memory_plan(config, setting)
    # It did not fit, even if the plan says so: the next setting has to need less than this one.
    smaller = next_smaller_setting(config, setting, min(there, plan.total))
    change = smaller.sentence() if smaller else "use a smaller model or a device with more memory"
    return f"the run needs {plan.describe()}, and there are {there:.1f} GB: {change}"
