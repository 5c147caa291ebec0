"""Timing of generation, measured on this machine and therefore volatile."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Clock = Callable[[], float]


@dataclass(slots=True)
class TokenTimer:
    """Times calls that make tokens; ``clock`` gives seconds."""

    clock: Clock
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0

    def add(self, began: float, tokens: int) -> None:
        """Add a call that began at ``began`` and has just generated ``tokens`` tokens."""
        self.seconds.append(self.clock() - began)
        self.tokens += tokens

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens over seconds of all calls; None when nothing was timed."""
        total = sum(self.seconds)
        return self.tokens / total if total > 0 else None


def timing_facts(single: TokenTimer, batched: TokenTimer, batch_size: int) -> dict[str, Any]:
    """Return what was measured of one model.

    Args:
        single: requests answered one at a time; the latency of a request is its time from prompt to last token.
        batched: requests answered in batches.
        batch_size: requests in a batch.
    """
    return {
        **latency(single.seconds),
        "tokens_per_second_single": single.tokens_per_second,
        "tokens_per_second": batched.tokens_per_second,
        "batch_size": batch_size,
        "tokens": batched.tokens,
    }


def latency(seconds: Sequence[float]) -> dict[str, Any]:
    """Return median and 95th percentile in seconds, and how many requests they are of; nothing without any."""
    if not seconds:
        return {}
    median, p95 = np.quantile(seconds, [0.5, 0.95])
    return {"latency_median_s": float(median), "latency_p95_s": float(p95), "latency_requests": len(seconds)}
