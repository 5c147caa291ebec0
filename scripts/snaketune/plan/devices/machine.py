"""What this machine offers to a run, looked up once; everything else in the plan is arithmetic."""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

GB = 1e9


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
    """Return what this machine offers; ``results`` is an existing folder on the disk that results go to."""
    import torch

    has_gpu = torch.cuda.is_available()
    properties = torch.cuda.get_device_properties(0) if has_gpu else None
    return Machine(
        host=platform.node(),
        gpu=properties.name if properties else None,
        gpus=torch.cuda.device_count() if has_gpu else 0,
        gpu_memory_gb=properties.total_memory / GB if properties else None,
        has_bf16=has_gpu and torch.cuda.is_bf16_supported(including_emulation=False),
        ram_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB,
        free_disk_gb=shutil.disk_usage(results).free / GB,
    )
