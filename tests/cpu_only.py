"""The test suite compares bits and tolerances of the CPU: a GPU of the machine is hidden from it."""

from collections.abc import MutableMapping
from pathlib import Path


def hide_gpus(environment: MutableMapping[str, str], devices: Path = Path("/dev")) -> None:
    """Let CUDA find no GPU if there is one, unless ``CUDA_VISIBLE_DEVICES`` already says which ones it may use."""
    if any(devices.glob("nvidia[0-9]*")):
        environment.setdefault("CUDA_VISIBLE_DEVICES", "")
