"""Decisions that depend on the device: dtypes and kernels, with one code path for CPU and GPU."""

import functools
from dataclasses import dataclass
from typing import Any

import torch

from snaketune.core.errors import ConfigError
from snaketune.core.gpus import MAKE_AGAIN, OR_CPU, why_unusable
from snaketune.settings.train_section import TrainSection
from snaketune.settings.training_slices import TrainingSlice
from snaketune.train.distributed.process_group import local_rank


@dataclass(frozen=True, slots=True)
class Device:
    """The device of a run and the settings that follow from it."""

    type: str
    has_bf16: bool
    has_tf32: bool

    @property
    def is_cpu(self) -> bool:
        """Tell whether there is no accelerator."""
        return self.type == "cpu"


def find_device() -> Device:
    """Return the accelerator of this process, else the CPU.

    Raises:
        ConfigError: if there is an accelerator that torch cannot use, and the CPU was not requested.
    """
    if has_usable_card():
        major, _ = torch.cuda.get_device_capability()
        return Device("cuda", has_bf16=torch.cuda.is_bf16_supported(including_emulation=False), has_tf32=major >= 8)
    return Device("cpu", has_bf16=False, has_tf32=False)


def has_usable_card() -> bool:
    """Tell whether torch computes on a GPU here.

    Raises:
        ConfigError: if there is one and torch cannot use it: a driver that is too old, a build without CUDA or without
            kernels for this generation. Falling back to the CPU would take days without a message.
    """
    if not torch.cuda.is_available():
        if reason := _why_unusable():
            raise ConfigError(reason)
        return False
    capability, built = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
    if built and not _has_kernels(capability, built):
        raise ConfigError(
            f"{torch.cuda.get_device_name()} (compute capability {capability[0]}.{capability[1]}) has no kernels in"
            f" torch {torch.__version__}, which was built for {', '.join(built)}: {MAKE_AGAIN}, {OR_CPU}."
        )
    return True


@functools.cache
def _why_unusable() -> str | None:
    return why_unusable(torch.__version__, torch.version.cuda)


def _has_kernels(capability: tuple[int, int], built: list[str]) -> bool:
    """Tell whether a build has kernels for a GPU: binaries of its generation, or PTX of an older one."""
    wanted = 10 * capability[0] + capability[1]
    for name in built:
        kind, _, number = name.partition("_")
        own = int("".join(filter(str.isdigit, number)) or 0)
        if own <= wanted and (kind == "compute" or own // 10 == wanted // 10):
            return True
    return False


def weight_dtype(setting: str, device: Device) -> torch.dtype:
    """Return the dtype of the base weights.

    A CPU computes bfloat16 and float16 tens of times slower than float32, so ``auto`` never picks them there.
    """
    if setting != "auto":
        return getattr(torch, setting)
    if device.is_cpu:
        return torch.float32
    return torch.bfloat16 if device.has_bf16 else torch.float16


def attention(setting: str) -> str:
    """Return the attention implementation for inference: with padding, masks and a cache, or packed rows.

    ``auto`` and ``varlen`` are sdpa, which does all of that on every device; kernels for packed training rows are
    chosen by :func:`snaketune.train.kernels.attention.training_attention`.
    """
    return "sdpa" if setting in ("auto", "varlen") else setting


def mixed_dtype(train: TrainSection, device: Device) -> torch.dtype | None:
    """Return the dtype of automatic mixed precision in training; None without it."""
    precision = precision_arguments(train, device)
    if not precision["bf16"] and not precision["fp16"]:
        return None
    return torch.bfloat16 if precision["bf16"] else torch.float16


def mixed_precision(model: torch.nn.Module, dtype: torch.dtype | None) -> torch.autocast:
    """Return the autocast context of training; code that runs outside it calls kernels with other dtypes.

    Args:
        model: any part of what is trained, on its device.
        dtype: of :func:`mixed_dtype`; None changes nothing.
    """
    return torch.autocast(next(model.parameters()).device.type, dtype, enabled=dtype is not None)


def is_exact(states: torch.Tensor) -> bool:
    """Tell whether ``states`` were computed in float32 from end to end."""
    return states.dtype == torch.float32 and not torch.is_autocast_enabled(states.device.type)


def computing_dtype(cfg: TrainingSlice, device: Device) -> torch.dtype:
    """Return the dtype of matrix products in training: that of autocast, else that of the base weights.

    Args:
        cfg: the ``train``, ``model`` and ``adapter`` sections; without an adapter ``dtype: auto`` means float32.
        device: where the run computes.
    """
    if mixed := mixed_dtype(cfg["train"], device):
        return mixed
    is_full = cfg["adapter"]["type"] == "none"
    return torch.float32 if is_full and cfg["model"]["dtype"] == "auto" else weight_dtype(cfg["model"]["dtype"], device)


def is_sharded(cfg: TrainingSlice) -> bool:
    """Tell whether each process holds a shard of the weights, so that none ever has the whole model.

    Args:
        cfg: the ``train`` and ``model`` sections; quantised weights cannot be sharded from memory.
    """
    shares = cfg["train"]["strategy"] in ("fsdp", "deepspeed_zero3")
    return shares and cfg["model"].get("quantization", "none") == "none"


def precision_arguments(train: TrainSection, device: Device) -> dict[str, Any]:
    """Return the precision arguments of ``TrainingArguments`` for this device.

    A GPU without bfloat16 gets float16 with a scaler from ``bf16: auto``: its float16 weights alone would lose small
    gradients.

    Raises:
        ConfigError: if the configuration asks for what the device does not have.
    """
    if train["bf16"] is True and not device.has_bf16:
        raise ConfigError(f"train.bf16: true needs a GPU with bfloat16 and this is {device.type}: set it to auto.")
    if train["fp16"] and device.is_cpu:
        raise ConfigError("train.fp16: true needs a GPU: set it to false; a CPU trains in float32.")
    if train["tf32"] is True and not device.has_tf32:
        raise ConfigError(f"train.tf32: true needs an Ampere or newer GPU and this is {device.type}: set it to auto.")
    is_auto = train["bf16"] == "auto"
    bf16 = device.has_bf16 and not train["fp16"] if is_auto else train["bf16"]
    fp16 = train["fp16"] or (is_auto and not device.is_cpu and not device.has_bf16)
    tf32 = device.has_tf32 if train["tf32"] == "auto" else train["tf32"]
    chosen: dict[str, Any] = {"bf16": bf16, "fp16": fp16, "use_cpu": device.is_cpu}
    return chosen | ({"tf32": tf32} if device.has_tf32 else {})


def check_formats(cfg: TrainingSlice, device: Device) -> None:
    """Check that the dtypes of weights can be trained on this device.

    Args:
        cfg: the ``train``, ``adapter`` and ``model`` sections.
        device: where the run computes.

    Raises:
        ConfigError: if they cannot.
    """
    if not device.is_cpu and not device.has_bf16 and cfg["model"]["dtype"] == "bfloat16":
        raise ConfigError(
            f"model.dtype: bfloat16 needs an Ampere or newer GPU and this is {name_of_device(device)}: set it to auto."
        )
    if mixed_dtype(cfg["train"], device) != torch.float16:
        return
    if cfg["train"]["optimizer_in_backward"]:
        raise ConfigError(
            f"train.optimizer_in_backward: true needs a GPU with bfloat16 and this is {name_of_device(device)}, "
            f"whose float16"
            " gradients are scaled and checked before a step: set it to false."
        )
    # torch's gradient scaler unscales float32 gradients only.
    is_full = cfg["adapter"]["type"] == "none"
    key, dtype = ("model.dtype", cfg["model"]["dtype"]) if is_full else ("adapter.dtype", cfg["adapter"].get("dtype"))
    if dtype in ("bfloat16", "float16"):
        raise ConfigError(
            f"{key}: {dtype} cannot be trained in float16 mixed precision, whose gradients are scaled in float32: set"
            " it to auto."
        )


def name_of_device(device: Device) -> str:
    """Return the device's name for messages."""
    return "a CPU" if device.is_cpu else torch.cuda.get_device_name()


def prepare_arithmetic(threads: int) -> Device:
    """Fix the number of CPU threads, which decides the last bits of sums, and return the device of this process."""
    torch.set_num_threads(threads)
    # Before any query: asking the first GPU would create a CUDA context on it in every process.
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    return find_device()
