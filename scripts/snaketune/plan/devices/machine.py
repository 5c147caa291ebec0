"""The resources of this machine, queried once; the rest of a plan is arithmetic."""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

BYTES_PER_GB = 1e9
DEVICE_FILES = ("nvidia*", "nvhost*", "nvgpu*", "dxg", "kfd")
NO_GPU = (None, 0, None, False)


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine; ``gpu`` is None without one. Gigabytes are 10⁹ bytes."""

    host: str
    gpu: str | None
    """Name of the first GPU, as its driver gives it."""
    gpus: int
    gpu_memory_gb: float | None
    has_bf16: bool
    ram_gb: float
    free_disk_gb: float
    """On the disk of the results."""


def look_at_machine(results: Path) -> Machine:
    """Return this machine's resources; ``results`` is an existing folder on the disk of the results."""
    gpu, gpus, memory_gb, has_bf16 = _gpus() if may_have_gpu() else NO_GPU
    return Machine(
        host=platform.node(),
        gpu=gpu,
        gpus=gpus,
        gpu_memory_gb=memory_gb,
        has_bf16=has_bf16,
        ram_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / BYTES_PER_GB,
        free_disk_gb=shutil.disk_usage(results).free / BYTES_PER_GB,
    )


def may_have_gpu(root: Path = Path("/")) -> bool:
    """Tell whether a GPU driver is present, so that loading torch, which takes seconds, to query GPUs is worthwhile.

    Without any device file of a driver (NVIDIA's, also on its small boards and under Windows, or AMD's) torch finds
    none.
    """
    devices = root / "dev"
    return any(next(devices.glob(pattern), None) for pattern in DEVICE_FILES)


def _gpus() -> tuple[str | None, int, float | None, bool]:
    """Return the name of the first GPU, how many there are, its memory in GB and whether it computes in bfloat16."""
    import torch

    if not torch.cuda.is_available():
        return NO_GPU
    properties = torch.cuda.get_device_properties(0)
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return properties.name, torch.cuda.device_count(), properties.total_memory / BYTES_PER_GB, has_bf16
