"""Equivalent settings that may be faster: micro-batch, recomputation and loader processes.

Micro-batch times accumulation is constant, so that every candidate takes the same optimizer steps.
"""

from dataclasses import dataclass
from typing import Any

from snaketune.facts.probe_facts import CandidateRow, CandidateSetting, SettingAdvice

MOST_ROWS_FACTOR = 8
"""Micro-batches are tried up to this multiple of the configured one."""
LEVELS = (0, 2, 1)
"""Checkpointing intervals, from least to most recomputation."""
WORKER_COUNTS = (0, 2, 4)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One setting to try."""

    micro_batch: int
    """Rows in one forward pass."""
    accumulation: int
    """Forward passes per optimizer step."""
    checkpoint_every: int
    """One in this many layers is recomputed: 0 none, 1 all."""
    workers: int
    """Loader processes."""

    def facts(self) -> CandidateSetting:
        """Return the fields by name."""
        return {
            "micro_batch": self.micro_batch,
            "accumulation": self.accumulation,
            "checkpoint_every": self.checkpoint_every,
            "workers": self.workers,
        }

    def keys(self) -> dict[str, Any]:
        """Return the configuration keys that make a run train with this setting."""
        found: dict[str, Any] = {
            "train.per_device_train_batch_size": self.micro_batch,
            "train.gradient_accumulation_steps": self.accumulation,
            "train.gradient_checkpointing": self.checkpoint_every > 0,
            "train.dataloader_num_workers": self.workers,
        }
        return found | ({"train.checkpoint_every_n_layers": self.checkpoint_every} if self.checkpoint_every else {})


def row_choices(micro_batch: int, accumulation: int) -> list[tuple[int, int]]:
    """Return the (micro-batch, accumulation) with the same product, each about twice the one before.

    One, half, the configured number, and twice, four and eight times that, as far as they divide the batch.
    """
    batch = micro_batch * accumulation
    divisors = [rows for rows in range(1, min(batch, micro_batch * MOST_ROWS_FACTOR) + 1) if batch % rows == 0]
    chosen: list[int] = []
    for rows in divisors:
        # Throughput changes little between neighbouring sizes, and each candidate costs a measurement: a factor of two
        # between them is enough.
        if rows == micro_batch or not chosen or rows >= 2 * chosen[-1]:
            chosen.append(rows)
    return [(rows, batch // rows) for rows in chosen]


def worker_choices(configured: int, cores: int) -> list[int]:
    """Return the numbers of loader processes to try: none, two, four and the configured one, below the cores."""
    return sorted({configured, *(count for count in WORKER_COUNTS if count < cores)})


def advice(current: CandidateRow, best: CandidateRow) -> SettingAdvice | None:
    """Return what to change in the configuration; None if no candidate is faster by more than the noise.

    Args:
        current: the configured candidate's row.
        best: the row of the fastest candidate.
    """
    if current["tokens_per_second"] is None or best["tokens_per_second"] is None:
        # Without a measurement of the configured setting there is nothing to compare with; that the other one fits is
        # the advice.
        return {"changes": _changes(current, best), "speed_up": None, "time_reduction": None}
    # The best of several noisy measurements is biased upwards; a gain within the spread of the repeats is not advice.
    gain = best["tokens_per_second"] / current["tokens_per_second"] - 1
    if gain <= max(current["spread"] or 0.0, best["spread"] or 0.0):
        return None
    return {"changes": _changes(current, best), "speed_up": 1 + gain, "time_reduction": gain / (1 + gain)}


def _changes(current: CandidateRow, best: CandidateRow) -> dict[str, Any]:
    return {key: value for key, value in best["keys"].items() if current["keys"].get(key) != value}
