"""The effect of a factor from measured cases: seconds and dollars per epoch, speed-up, held-out loss, spread."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import median
from typing import Any

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class MeasuredCase:
    """A case with its repeats in the order of the rounds; ``failed`` is the reason if there are none."""

    rates: tuple[float, ...] = ()
    """Real tokens per second of one device, training alone."""
    losses: tuple[float | None, ...] = ()
    """Held-out loss in nats per token after the same number of training tokens in every case."""
    peak_memory_bytes: int = 0
    save_seconds: float = 0.0
    first_warm_up_seconds: float = 0.0
    """Of the first repeat, including compilation without a cache."""
    warm_up_seconds: float = 0.0
    """Of the later ones."""
    waited_share: float = 0.0
    """Largest fraction of a round that was spent waiting for a CPU used by other programs."""
    facts: dict[str, Any] | None = None
    """Micro-batch, accumulation, steps, tokens, engine."""
    failed: str = ""

    @property
    def rate(self) -> float:
        """Return the median throughput."""
        return median(self.rates)


def together(results: Sequence[dict[str, Any]]) -> MeasuredCase:
    """Combine the repeats of a case; a case that failed once counts as failed."""
    failures = [result["failed"] for result in results if "failed" in result]
    if failures:
        # A median over the rounds that succeeded would favour a case that fails whenever memory is short.
        return MeasuredCase(failed=failures[0])
    values = [result["value"] for result in results]
    names = ("rows", "accumulation", "steps", "tokens", "engine")
    warm_ups = [value["warmup_seconds"] for value in values]
    return MeasuredCase(
        rates=tuple(value["tokens_per_second"] for value in values),
        losses=tuple(value["held_out_loss"] for value in values),
        # The largest, not the median: a run needs room for its worst case.
        peak_memory_bytes=max(value["peak_memory_bytes"] for value in values),
        save_seconds=median(value["save_seconds"] for value in values),
        first_warm_up_seconds=warm_ups[0],
        # The first repeat fills the caches of compiled kernels; later trainings find them.
        warm_up_seconds=median(warm_ups[1:] or warm_ups),
        waited_share=max(value["waited_share"] for value in values),
        facts={name: values[0][name] for name in names},
    )


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch from its start: its parts besides training itself, in seconds.

    Attributes:
        tokens: real tokens of an epoch of the run.
        steps: optimizer steps of an epoch.
        reading: seconds to read the sources, off and on a fast disk.
        tokenising: seconds to tokenise at the start, and to open what is tokenised.
        hours_between_interruptions: mean time between interruptions, for the optimal checkpoint interval.
        save_steps: steps between checkpoints of the guides.
    """

    tokens: int
    steps: int
    reading: tuple[float, float]
    tokenising: tuple[float, float]
    hours_between_interruptions: float
    save_steps: int

    def training(self, case: MeasuredCase) -> float:
        """Return the seconds of training alone."""
        return self.tokens / case.rate

    def saves(self, case: MeasuredCase, seldom: bool) -> int:
        """Return the checkpoints of an epoch: the guides', or the optimal number.

        The optimum is Young's (1974), see train/checkpoints/checkpoint_schedule.py.
        """
        if not seldom:
            return ceil(self.steps / self.save_steps)
        between = sqrt(2 * case.save_seconds * self.hours_between_interruptions * SECONDS_PER_HOUR)
        return max(1, round(self.training(case) / between)) if between else 1

    def seconds(self, case: MeasuredCase, staged: bool, tokenised: bool, seldom: bool) -> float:
        """Return the seconds of an epoch from its start; data that are tokenised already need no reading of sources."""
        start = self.tokenising[1] if tokenised else self.tokenising[0] + self.reading[staged]
        return start + self.training(case) + self.saves(case, seldom) * case.save_seconds


def spread(values: Sequence[float]) -> float:
    """Return (largest - smallest) / median; 0 for a single value."""
    return (max(values) - min(values)) / median(values)


def speed_ups(off: MeasuredCase, on: MeasuredCase) -> list[float]:
    """Return the ratio of throughputs in each round; both cases of a round ran at about the same time."""
    return [new / old for old, new in zip(off.rates, on.rates, strict=True)]


def effect(off: MeasuredCase, on: MeasuredCase, epoch: Epoch, price_per_hour: float | None) -> dict[str, Any]:
    """Return the effect of switching a factor on, as facts.

    ``speed_up`` is the median over the rounds of new over old throughput, ``time_reduction`` the fraction of the time
    that is saved: 2 times as fast is 50% less time.
    """
    if off.failed or on.failed:
        return {"failed": off.failed or on.failed}
    # Ratios within rounds, not a ratio of medians: a machine that slows down between rounds affects both cases alike.
    ratios = speed_ups(off, on)
    speed_up = median(ratios)
    saved = epoch.training(off) * (1 - 1 / speed_up)
    return {
        "off": case_facts(off),
        "on": case_facts(on),
        "speed_up": speed_up,
        "speed_up_low": min(ratios),
        "speed_up_high": max(ratios),
        "time_reduction": 1 - 1 / speed_up,
        "verdict": rounds_verdict(ratios),
        **savings(saved, price_per_hour),
        "loss_change": loss_change(off, on),
        "loss_change_low": _loss_bound(off, on, min),
        "loss_change_high": _loss_bound(off, on, max),
    }


def rounds_verdict(ratios: Sequence[float]) -> str:
    """Return faster or slower if all rounds agree, else neither."""
    # With so few rounds a significance test has hardly any power; agreement of all rounds is a criterion that readers
    # can check in the table.
    if min(ratios) > 1:
        return "faster"
    return "slower" if max(ratios) < 1 else "unclear"


def savings(seconds: float, price_per_hour: float | None) -> dict[str, float | None]:
    """Return seconds and dollars saved per epoch, negative if lost; None is unknown."""
    usd = None if price_per_hour is None else seconds / SECONDS_PER_HOUR * price_per_hour
    return {"seconds_saved": seconds, "usd_saved": usd}


def case_facts(case: MeasuredCase) -> dict[str, Any]:
    """Return a case as facts."""
    losses = [loss for loss in case.losses if loss is not None]
    return {
        "tokens_per_second": case.rate,
        "rates": list(case.rates),
        "spread": spread(case.rates),
        "held_out_loss": median(losses) if losses else None,
        "held_out_losses": list(case.losses),
        "peak_memory_bytes": case.peak_memory_bytes,
        "save_seconds": case.save_seconds,
        "waited_share": case.waited_share,
        "first_warm_up_seconds": case.first_warm_up_seconds,
        "warm_up_seconds": case.warm_up_seconds,
        **(case.facts or {}),
    }


def _loss_changes(off: MeasuredCase, on: MeasuredCase) -> list[float]:
    pairs = zip(off.losses, on.losses, strict=True)
    return [new - old for old, new in pairs if old is not None and new is not None]


def loss_change(off: MeasuredCase, on: MeasuredCase) -> float | None:
    """Return the median change of the held-out loss over the rounds, in nats; None without held-out data."""
    changes = _loss_changes(off, on)
    return median(changes) if changes else None


def _loss_bound(off: MeasuredCase, on: MeasuredCase, choose: Any) -> float | None:
    changes = _loss_changes(off, on)
    return choose(changes) if changes else None


def part_of_epoch(whole: float, saved: float, price_per_hour: float | None) -> dict[str, Any]:
    """Return the effect of a factor outside training on one epoch from its start, of ``whole`` seconds."""
    return {
        "speed_up": whole / (whole - saved),
        "time_reduction": saved / whole,
        **savings(saved, price_per_hour),
    }
