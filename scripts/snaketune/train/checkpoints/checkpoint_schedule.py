"""When checkpoints and log lines are written; the schedule never changes the result of a training."""

import math
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from snaketune.train.distributed.process_group import ALONE, ProcessGroup

HOUR = 3600.0
FIRST_SAVE_SECONDS = 60.0


def best_interval(save_seconds: float, mean_seconds_between_interruptions: float) -> float:
    """Return the seconds of work between two checkpoints that waste the least time: sqrt(2 * save * M).

    M is the mean time between interruptions. With interval t, saving costs save / t of the time and a crash loses t / 2
    on average, t / (2 M) of the time; the sum is smallest where both are equal. Source: J. W. Young, "A first order
    approximation to the optimum checkpoint interval", Communications of the ACM 17(9), 1974. The further terms of
    J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future Generation
    Computer Systems 22(3), 2006, are negligible while a save takes much less than M.
    """
    return math.sqrt(2 * save_seconds * mean_seconds_between_interruptions)


class CheckpointSchedule(TrainerCallback):
    """Requests a checkpoint every ``save_steps`` steps, or at the interval of least waste (``auto``), and at the end.

    With ``auto`` the first checkpoint is written after a minute, to measure its cost.

    Args:
        save_steps: steps between checkpoints, or ``auto``.
        hours: mean time between interruptions that ``auto`` assumes.
        clock: monotonic seconds.
        process_group: the processes that save together; the clock of the main process decides.
    """

    def __init__(
        self,
        save_steps: int | str,
        hours: float,
        clock: Callable[[], float] = time.monotonic,
        process_group: ProcessGroup = ALONE,
    ):
        self._process_group = process_group
        self._steps = None if save_steps == "auto" else int(save_steps)
        self._hours, self._clock = hours, clock
        self._save_seconds: list[float] = []
        self._known_cost: float | None = None
        self._began = self._last_save = clock()
        self._first_step, self._last_step, self._longest = 0, 0, 0.0
        self._is_over = False

    @property
    def interval(self) -> float:
        """Seconds of work between checkpoints with ``auto``."""
        cost = self.cost
        return FIRST_SAVE_SECONDS if cost is None else best_interval(cost, self._hours * HOUR)

    @property
    def cost(self) -> float | None:
        """Seconds that a checkpoint takes: the mean of this process's, or the value measured before a resume."""
        return sum(self._save_seconds) / len(self._save_seconds) if self._save_seconds else self._known_cost

    def restore(self, cost: float | None) -> None:
        """Start with the cost of a checkpoint that was measured before the interruption."""
        self._known_cost = cost

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self._began = self._last_save = self._clock()
        self._first_step = self._last_step = state.global_step
        if self._steps is None and self.cost is not None:
            self._announce()

    def on_step_end(self, args, state, control, **kwargs):
        """Request a checkpoint when one is due."""
        self._last_step = state.global_step
        self._is_over = state.global_step >= state.max_steps
        since = self._clock() - self._last_save
        if self._steps is None:
            # Saving is collective, and the clocks of the processes differ: if each decided for itself, they could
            # deadlock.
            is_due = self._process_group.first(since >= self.interval)
        else:
            is_due = state.global_step % self._steps == 0
        # The last step always gets a checkpoint: the result is published from it.
        if is_due or self._is_over:
            control.should_save = True

    def saved(self, seconds: float) -> None:
        """Record a checkpoint that took ``seconds``."""
        # The gap ends before the save, whose seconds are known only now.
        self._longest = max(self._longest, self._clock() - self._last_save - seconds)
        self._save_seconds.append(seconds)
        self._last_save = self._clock()
        if self._steps is None and len(self._save_seconds) == 1 and not self._is_over:
            self._announce()

    def _announce(self) -> None:
        facts = self.facts()
        print(
            f"Checkpoints about every {schedule_duration(facts['interval_seconds'])}: each takes"
            f" {facts['seconds_per_checkpoint']:.2g} s (measured), {facts['cost_percent']:.2g}% of the time, and a"
            f" crash loses at most {schedule_duration(facts['crash_loses_seconds'])} "
            f"of work; one every {self._hours:g} h is"
            " assumed.",
            flush=True,
        )

    def facts(self) -> dict[str, Any]:
        """Return what checkpoints cost and save.

        Returns:
            ``save_steps`` (number or ``auto``), ``checkpoints`` written by this process, ``seconds_per_checkpoint``
            (measured mean), ``interval_seconds`` (``auto``: chosen; else the measured time of ``save_steps`` steps),
            ``cost_percent`` of the time, ``crash_loses_seconds`` at most, ``longest_gap_seconds`` (measured) and
            ``hours_between_interruptions`` (assumed). What is not known yet is None.
        """
        cost = self.cost
        interval = self.interval if self._steps is None else self._seconds_of(self._steps)
        percent = loses = None
        if cost is not None and interval is not None:
            overrun = self._seconds_of(1) or 0.0 if self._steps is None else 0.0  # the step under way is finished
            percent, loses = 100 * cost / (interval + cost), interval + overrun + cost
        return {
            "save_steps": "auto" if self._steps is None else self._steps,
            "checkpoints": len(self._save_seconds),
            "seconds_per_checkpoint": _rounded(cost),
            "interval_seconds": _rounded(interval),
            "cost_percent": _rounded(percent),
            "crash_loses_seconds": _rounded(loses),
            "longest_gap_seconds": _rounded(self._longest) if self._save_seconds else None,
            "hours_between_interruptions": self._hours,
        }

    def _seconds_of(self, steps: int) -> float | None:
        done = self._last_step - self._first_step
        # Time of work alone: checkpoints are counted separately.
        working = self._clock() - self._began - sum(self._save_seconds)
        return steps * working / done if done else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def schedule_duration(seconds: float) -> str:
    """Format seconds for people: ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / HOUR:.1f} h"


MOST_STEPS_A_LINE, FEWEST_LINES = 10, 50


def logging_interval(setting: int | str, max_steps: int) -> int:
    """Return the steps between two log lines of a training of ``max_steps``.

    Args:
        setting: ``train.logging_steps``; ``auto`` gives fifty lines: at least every step, at most every tenth.
        max_steps: steps of the whole training.
    """
    return int(setting) if setting != "auto" else max(1, min(MOST_STEPS_A_LINE, max_steps // FEWEST_LINES))


class LogSchedule(TrainerCallback):
    """Requests a log line after the first step, at each interval and after the last step.

    Args:
        setting: ``train.logging_steps``.
    """

    def __init__(self, setting: int | str):
        self._setting = setting

    def on_step_end(self, args, state, control, **kwargs):
        """Request a line when one is due."""
        step, interval = state.global_step, logging_interval(self._setting, state.max_steps)
        if step == 1 or step % interval == 0 or step >= state.max_steps:
            control.should_log = True
