"""Axes: scaling of values to positions, and the positions and labels of ticks."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from snaketune.report import units

Write = Callable[[float, float], str]
"""Formats a tick label from its value and the distance to the next tick."""
TICK_STEPS = (1.0, 2.0, 5.0, 10.0)
TICK_ROUNDING = 0.7
"""Tolerance on the tick distance: a few more ticks are better than half as many."""
SMALLEST_TICK, LARGEST_TICK = 1e-4, 1e7


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from ``low`` to ``high`` with its ticks; with ``logarithmic`` equal distances are equal ratios."""

    low: float
    high: float
    ticks: tuple[float, ...]
    step: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return the position of a value, from 0 at ``low`` to 1 at ``high``."""
        value, low, high = (self.inner(one) for one in (value, self.low, self.high))
        return (value - low) / (high - low)

    def inner(self, value: float) -> float:
        """Return the value itself, or its logarithm to base 10 on a logarithmic axis."""
        return math.log10(value) if self.logarithmic else value


def linear(low: float, high: float, count: int, whole: bool = False, nice: bool = True) -> Scale:
    """Return an axis over some values with about ``count`` ticks at 1, 2 or 5 times a power of ten.

    Args:
        low: the lowest value; if it equals the highest, the axis is widened.
        high: the highest value.
        count: desired number of ticks.
        whole: ticks are whole numbers.
        nice: the axis begins and ends at a tick; otherwise at the lowest and the highest value.
    """
    if low == high:
        # A flat curve gets some room on either side; an axis of zero length has no positions.
        room = abs(low) / 2 or 1.0
        low, high = (low - room, high + room)
    step = _step((high - low) / count)
    step = max(step, 1.0) if whole else step
    # Ticks are whole multiples of the step, computed from integers: adding steps up would accumulate rounding errors.
    first, last = (math.floor, math.ceil) if nice else (math.ceil, math.floor)
    numbers = range(first(_steady(low / step)), last(_steady(high / step)) + 1)
    ticks = tuple(_steady(number * step) for number in numbers)
    return Scale(ticks[0], ticks[-1], ticks, step) if nice else Scale(low, high, ticks, step)


def logarithmic(low: float, high: float) -> Scale:
    """Return a logarithmic axis over some values above 0, with ticks at 1, 2 and 5 times the powers of ten."""
    if low == high:
        low, high = low / 2, high * 2
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [factor * 10.0**power for power in powers for factor in TICK_STEPS[:3]]
    inside = [tick for tick in every if low <= tick <= high]
    # A narrow range may hold too few of these ticks, a wide one too many: then linear ticks, or powers of ten only.
    if len(inside) < 2:
        inside = [tick for tick in linear(low, high, 4, nice=False).ticks if tick > 0]
    if len(inside) > 7:
        inside = [tick for tick in inside if math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-9)]
    return Scale(low, high, tuple(inside), inside[0] if inside else low, True)


def _step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(_steady(factor * power) for factor in TICK_STEPS if factor * power >= least * TICK_ROUNDING)


def _steady(value: float) -> float:
    """Return a value without floating-point noise."""
    return float(f"{value:.12g}")


def tick_text(value: float, step: float) -> str:
    """Format a tick with the decimals that the distance between ticks requires."""
    size = max(abs(value), step)
    if value == 0:
        return "0"
    if size >= LARGEST_TICK or size < SMALLEST_TICK or step < SMALLEST_TICK:
        return units.significant(value, 2)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}".replace("-", units.MINUS)


def thousands(value: float, step: float) -> str:
    """Format a tick as 20k, 1.5M or 3G."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{tick_text(_steady(value / size), step / size)}{letter}"
    return tick_text(value, step)


def money(value: float, step: float) -> str:
    """Format a tick in US dollars."""
    return f"${tick_text(value, step)}"


def per_cent(value: float, step: float) -> str:
    """Format a fraction as a percentage."""
    return f"{tick_text(_steady(value * 100), step * 100)}%"
