"""Measurements during training: tokens, wall time by activity, memory, and GPU utilisation."""

import contextlib
import functools
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.monitoring.provenance import noted

GIGA = 1e9


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """The counts of a batch.

    Attributes:
        rows: row numbers in the packed file.
        tokens: real tokens, without padding.
        trained: tokens that bear loss.
        squares: sum of the squared document lengths, to which the FLOPs of attention are proportional.
    """

    rows: tuple[int, ...]
    tokens: int
    trained: int
    squares: int


def batch_facts(rows: PackedRows, indices: list[int]) -> BatchFacts:
    """Return the counts of the batch of the rows ``indices``."""
    positions, mask = rows.take("position_ids", indices), rows.take("loss_mask", indices)
    tokens = rows.tokens[indices]
    is_real = torch.arange(positions.shape[1]).numpy() < tokens[:, None]
    # A document of length n has the positions p = 0 to n - 1, and the odd numbers 2p + 1 add up to n squared.
    squares = int((2 * positions.astype("int64") + 1)[is_real].sum())
    return BatchFacts(tuple(indices), int(tokens.sum()), int(mask[:, 1:].sum()), squares)


@dataclass(slots=True)
class TokenCounter:
    """Real tokens (never padding) that training has seen, including those before an interruption.

    Attributes:
        total: real tokens.
        trained: tokens that bore loss.
        squares: sum of squared document lengths.
        since_start: real tokens since this process began.
    """

    total: int = 0
    trained: int = 0
    squares: int = 0
    since_start: int = 0
    _agreed: tuple[int, ...] = (0, 0, 0, 0)

    def gather(self, sum_over_processes: Callable[[Sequence[float]], list[float]]) -> None:
        """Add the counts of the other processes since the last call; a collective operation."""
        counts = (self.total, self.trained, self.squares, self.since_start)
        # Only what is new since the last call is summed: the agreed counts are already those of all processes.
        new = sum_over_processes([count - agreed for count, agreed in zip(counts, self._agreed, strict=True)])
        self._agreed = tuple(agreed + round(more) for agreed, more in zip(self._agreed, new, strict=True))
        self.total, self.trained, self.squares, self.since_start = self._agreed

    def add(self, batch: BatchFacts) -> None:
        """Count one batch."""
        self.total += batch.tokens
        self.trained += batch.trained
        self.squares += batch.squares
        self.since_start += batch.tokens

    def facts(self) -> dict[str, int]:
        """Return the counts that a checkpoint keeps."""
        return {"tokens": self.total, "trained_tokens": self.trained, "squares": self.squares}

    def restore(self, facts: dict[str, Any]) -> None:
        """Restore the counts of a checkpoint."""
        self.total, self.trained, self.squares = facts["tokens"], facts["trained_tokens"], facts["squares"]
        self._agreed = (self.total, self.trained, self.squares, self.since_start)


class TimeSplit:
    """Wall time by activity: waiting for data, evaluation, checkpoints, and computing, which is the rest.

    On a GPU the host runs ahead of the device; ``device`` is the part of computing in which the host waited for it. A
    host that waits for the device has its batches ready in time, however long loading takes.
    """

    NAMED = ("data", "evaluation", "checkpoint", "device")

    def __init__(self, clock: Callable[[], float] = time.monotonic, parts: tuple[str, ...] = ()):
        """Begin now; ``parts`` are further names, of parts of computing."""
        self._clock, self._began = clock, clock()
        self._names = (*self.NAMED, *parts)
        self._spent = dict.fromkeys(self._names, 0.0)
        self.total = dict.fromkeys((*self._names, "compute"), 0.0)
        self.last: dict[str, float] = {}

    def start(self) -> None:
        """Begin an interval now and discard the time booked before."""
        self._began, self._spent = self._clock(), dict.fromkeys(self._names, 0.0)

    @contextmanager
    def spending(self, name: str) -> Iterator[None]:
        """Book the time of the block under ``name``; ``last[name]`` is then its seconds."""
        began = self._clock()
        try:
            yield
        finally:
            self.last[name] = self._clock() - began
            self._spent[name] += self.last[name]

    def take(self) -> dict[str, float]:
        """Return the seconds of the interval by name, with ``compute``, and begin the next one."""
        passed = self._clock() - self._began
        spent = dict(self._spent)
        spent["compute"] = max(passed - sum(spent[name] for name in ("data", "evaluation", "checkpoint")), 0.0)
        for name, seconds in spent.items():
            self.total[name] += seconds
        self.start()
        return spent


def data_hint(spent: dict[str, float], share: float = 0.2, seconds: float = 1.0) -> str | None:
    """Return a hint if a training interval waited long for data, else None.

    Args:
        spent: seconds of the interval, as :meth:`TimeSplit.take` returns them.
        share: fraction of training time that may be spent waiting.
        seconds: waiting times up to this never give a hint.
    """
    training = spent["data"] + spent["compute"]
    if spent["data"] <= max(share * training, seconds) or spent["device"] > 0.02 * training:
        return None
    return (
        f"{spent['data'] / training:.0%} of the time is spent waiting for data: try train.dataloader_num_workers of 2 "
        "or more, and paths.results on a faster (local) disk."
    )


def peak_memory_facts() -> dict[str, int]:
    """Return the peak resident memory of this process and, on a GPU, the peak allocated there, in bytes."""
    # getrusage counts bytes on macOS and kilobytes on Linux.
    kilo = 1 if sys.platform == "darwin" else 1024
    peaks = {"resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo}
    if (
        torch.cuda.is_available()
        and (allocated := noted("the GPU's memory", torch.cuda.max_memory_allocated)) is not None
    ):
        peaks["gpu_bytes"] = allocated
    return peaks


def forget_peak_memory() -> None:
    """Reset the peak memory counters; outside Linux the peak of this process cannot be reset."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        # Resets VmHWM, see proc(5).
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the peak memory since :func:`forget_peak_memory`: of tensors on the GPU, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return peak_memory_facts()["resident_bytes"]


def peak_gigabytes() -> float:
    """Return the peak memory in GB (1e9 bytes): of the GPU where there is one, else of this process."""
    peaks = peak_memory_facts()
    return round(peaks.get("gpu_bytes", peaks["resident_bytes"]) / GIGA, 3)


def gpu_utilization() -> int | None:
    """Return the percentage of the last sample period in which the GPU was busy (NVML), or None without NVML."""
    if not torch.cuda.is_available() or not _has_utilization():
        return None
    return noted("GPU utilisation", torch.cuda.utilization)


@functools.cache
def _has_utilization() -> bool:
    """Tell whether NVML is installed and reports utilisation, which a MIG instance does not; noted once."""
    return noted("GPU utilisation", torch.cuda.utilization) is not None
