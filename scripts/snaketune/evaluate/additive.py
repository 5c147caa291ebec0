"""Additive measures: values over all or some cases, and bootstrap intervals of differences.

Every measure of an evaluation is of this kind: each case (a document, an answer) adds a few numbers, and the value is
a function of the sums. So one bootstrap serves them all, BLEU and chrF included.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from snaketune.facts.evaluation_facts import Interval

# Enough for two stable digits of a 2.5% quantile; the seed is fixed so that equal answers give equal intervals.
RESAMPLES = 2000
LEVEL = 0.95
SEED = 0

ValueOfSums = Callable[[np.ndarray], float | None]


@dataclass(frozen=True, slots=True)
class Additive:
    """A measure over cases.

    Attributes:
        parts: the numbers that each case adds, float64, shape [cases, numbers].
        value: the measure from their sums, shape [numbers]; None where it does not exist.
    """

    parts: np.ndarray
    value: ValueOfSums

    def over(self, chosen: np.ndarray | slice = slice(None)) -> float | None:
        """Return the value over the ``chosen`` cases (a mask or indices); over all by default."""
        return self.value(self.parts[chosen].sum(axis=0))


Measures = Mapping[str, Additive]


def values(measures: Measures, chosen: np.ndarray | slice = slice(None)) -> dict[str, float]:
    """Return the values that exist."""
    found = {name: measure.over(chosen) for name, measure in measures.items()}
    return {name: value for name, value in found.items() if value is not None}


def measure_differences(before: Measures, after: Measures) -> dict[str, Interval]:
    """Return the difference of each measure, after minus before, with a 95% interval from a paired bootstrap.

    Cases are resampled with replacement, as many as there are, 2,000 times with a fixed seed. Both models get the same
    resamples; the interval holds the middle 95% of the differences (percentile method; Efron & Tibshirani 1993,
    chapter 13). Fewer than two cases give no interval.
    """
    names = [name for name in after if name in before]
    found: dict[str, Interval] = {}
    for name in names:
        old, new = before[name].over(), after[name].over()
        if old is not None and new is not None:
            found[name] = {"difference": new - old}
    # A single case has no spread: every resample is that case.
    cases = len(next(iter(after.values())).parts) if after else 0
    if cases < 2 or not found:
        return found
    drawn = _drawn_differences([(before[name], after[name]) for name in found], cases)
    for name, column in zip(found, drawn.T, strict=True):
        # A resample may lack every case that a metric applies to; such draws have no value and do not count.
        found[name] |= _interval(column[np.isfinite(column)])
    return found


def _drawn_differences(pairs: list[tuple[Additive, Additive]], cases: int) -> np.ndarray:
    """Return the difference of each pair in each draw, float64, shape [draws, pairs]."""
    random = np.random.default_rng(SEED)
    drawn = np.empty((RESAMPLES, len(pairs)))
    for row in drawn:
        # A resample is a count per case, and a sum over it a product with the parts: memory holds one count per case.
        # The pairing cancels what makes a case hard for both models, so that intervals are far narrower.
        weights = np.bincount(random.integers(0, cases, cases), minlength=cases).astype(np.float64)
        for place, (before, after) in enumerate(pairs):
            old, new = before.value(weights @ before.parts), after.value(weights @ after.parts)
            row[place] = np.nan if old is None or new is None else new - old
    return drawn


def _interval(column: np.ndarray) -> Interval:
    if not len(column):
        return {}
    low, high = np.quantile(column, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"low": float(low), "high": float(high)}
