"""The volatile facts of a run: when and where it ran. They are part of no identity and never cost a result."""

import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

GIT_SECONDS = 20.0
T = TypeVar("T")


def noted(what: str, ask: Callable[[], T], seconds: float | None = None) -> T | None:
    """Return the result of ``ask``; if it fails or takes too long, print a line and return None.

    For facts about a computation that has cost hours: drivers, commands and network disks that answer late or not at
    all must not end it.

    Args:
        what: name of the fact.
        ask: looks it up.
        seconds: time limit, after which its thread is abandoned; None for no limit.
    """
    answers: list[T] = []
    errors: list[Exception] = []

    def ask_now() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            errors.append(error)

    if seconds is None:
        ask_now()
    else:
        # A process that waits for a dead disk cannot be killed either: nothing is waited for but the clock.
        thread = threading.Thread(target=ask_now, daemon=True)
        thread.start()
        thread.join(seconds)
    if answers:
        return answers[0]
    reason = f"{type(errors[0]).__name__}: {errors[0]}" if errors else f"no answer within {seconds:g} s"
    print(f"Note: {what} is not recorded ({reason}); results are unaffected.", flush=True)
    return None


def describe_machine() -> dict[str, Any]:
    """Return host, operating system, processor features and accelerator of this process."""
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_threads": torch.get_num_threads(),
        "gpu": noted("the GPU", _describe_gpu),
    }


def _describe_gpu() -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {"name": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}


def describe_git(folder: Path, seconds: float = GIT_SECONDS) -> dict[str, str] | None:
    """Return the commit of the workflow's checkout and a digest of its uncommitted changes, or None without git.

    Args:
        folder: a folder of the checkout.
        seconds: time limit; changes of large tracked files on a slow disk take minutes.
    """
    return noted("the git state", lambda: _git_state(folder, seconds), seconds)


def _git_state(folder: Path, seconds: float) -> dict[str, str] | None:
    import xxhash  # a bare machine with a GPU lacks it, and the step timers import this module

    try:
        commit = _git(folder, seconds, "rev-parse", "HEAD").decode(errors="replace").strip()
        changes = _git(folder, seconds, "diff", "--no-ext-diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "uncommitted": xxhash.xxh3_128_hexdigest(changes) if changes else "none"}


def _git(folder: Path, seconds: float, *arguments: str) -> bytes:
    # A hook's GIT_DIR would name another repository; the index is not written, so that no lock stays behind.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=seconds,
        env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
    ).stdout


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
