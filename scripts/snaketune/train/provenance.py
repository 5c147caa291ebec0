"""The volatile side of a run: when and where it happened. Nothing here is part of any identity."""

import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import xxhash


def describe_machine() -> dict[str, Any]:
    """Return host, operating system, processor features and accelerator of this process."""
    gpu = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = {"name": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def describe_git(folder: Path) -> dict[str, str] | None:
    """Return the commit of the workflow's checkout and a digest of its uncommitted changes, or None without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").decode().strip()
        changes = _git(folder, "diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "uncommitted": xxhash.xxh3_128_hexdigest(changes) if changes else "none"}


def _git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=True, timeout=20).stdout


class Stopwatch:
    """Wall time of a piece of work, with its beginning and end as local time with offset."""

    def __init__(self) -> None:
        self.started = self._now()
        self._begin = time.monotonic()

    def facts(self) -> dict[str, Any]:
        """Return start, end (ISO 8601) and seconds so far."""
        seconds = time.monotonic() - self._begin
        return {"started": self.started, "finished": self._now(), "seconds": round(seconds, 3)}

    @staticmethod
    def _now() -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S%z")
