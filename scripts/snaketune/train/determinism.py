"""The promise of ``train.deterministic``: kernels that give the same bits every time, or a sentence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._inductor import config as inductor

from snaketune.core.errors import ConfigError
from snaketune.train.device import Device

# cuBLAS has to know before its first product how it may share its memory; FlashAttention's package asks when it runs.
VARIABLES = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "FLASH_ATTENTION_DETERMINISTIC": "1"}
# How torch says that an operation has no such kernel.
REFUSED = "does not have a deterministic implementation"


def choose_kernels(deterministic: bool, device: Device) -> None:
    """Ask for kernels whose sums always have the same order, or take whatever is fastest.

    A CPU with a fixed number of threads always sums in the same order. On a GPU this costs speed; launches still
    overlap, other than with transformers' ``full_determinism``, which also blocks each of them. With ``warn_only``
    flash, memory-efficient and cuDNN attention would continue with sums in any order, which is why an operation that
    has no deterministic kernel is refused instead.
    """
    torch.use_deterministic_algorithms(deterministic, warn_only=device.is_cpu)
    # Filling memory that is about to be overwritten proves nothing about kernels and costs a pass over it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    inductor.deterministic = deterministic  # else measured times choose among compiled kernels
    for name, value in VARIABLES.items():
        if deterministic:
            os.environ[name] = value
        elif os.environ.get(name) == value:
            del os.environ[name]  # of a training before this one in the same process


@contextmanager
def explaining_refusal() -> Iterator[None]:
    """Turn torch's refusal of an operation into one sentence.

    Raises:
        ConfigError: if the model needs an operation that has no deterministic kernel on this device.
    """
    try:
        yield
    except RuntimeError as error:
        if REFUSED not in str(error):
            raise
        name = str(error).split(REFUSED)[0].strip()
        raise ConfigError(
            f"train.deterministic: true and {name} of this model has no deterministic kernel on this device: set it to "
            "false."
        ) from None
