"""``train.deterministic``: kernels that give the same bits every time, or an error naming the operation without one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._inductor import config as inductor

from snaketune.core.errors import ConfigError
from snaketune.train.device import Device

# cuBLAS reads its workspace configuration before its first product; the FlashAttention package at every call.
VARIABLES = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "FLASH_ATTENTION_DETERMINISTIC": "1"}
# From torch's error message for an operation without a deterministic kernel.
NOT_DETERMINISTIC = "does not have a deterministic implementation"


def choose_kernels(deterministic: bool, device: Device) -> None:
    """Select kernels with a fixed order of summation, or the fastest ones.

    A CPU with a fixed number of threads always sums in the same order. On a GPU deterministic kernels cost speed;
    launches still overlap, unlike with transformers' ``full_determinism``, which also makes each of them blocking.
    ``warn_only`` is not used on a GPU: flash, memory-efficient and cuDNN attention would go on with sums in any order.
    """
    torch.use_deterministic_algorithms(deterministic, warn_only=device.is_cpu)
    # Filling uninitialised memory, which is about to be overwritten, only costs a pass over it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    inductor.deterministic = deterministic  # otherwise inductor selects kernels by measured times
    for name, value in VARIABLES.items():
        if deterministic:
            os.environ[name] = value
        elif os.environ.get(name) == value:
            del os.environ[name]  # set by an earlier training of this process


@contextmanager
def explaining_refusal() -> Iterator[None]:
    """Turn torch's error about an operation without a deterministic kernel into one sentence.

    Raises:
        ConfigError: if the model needs an operation that has no deterministic kernel on this device.
    """
    try:
        yield
    except RuntimeError as error:
        if NOT_DETERMINISTIC not in str(error):
            raise
        name = str(error).split(NOT_DETERMINISTIC)[0].strip()
        raise ConfigError(
            f"train.deterministic: true and {name} of this model has no deterministic kernel on this device: set it to "
            "false."
        ) from None
