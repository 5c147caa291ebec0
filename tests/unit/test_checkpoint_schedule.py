"""How often a checkpoint is written, and what is said about it."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest

from snaketune.train.checkpoints.checkpoint_schedule import (
    HOUR,
    CheckpointSchedule,
    LogSchedule,
    best_interval,
    schedule_duration,
)


class Clock:
    """Seconds that a test lets pass."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(schedule, clock, steps, step_seconds, save_seconds, max_steps=10_000, first=0):
    """Train for some steps and return those that were saved."""
    saved = []
    schedule.on_train_begin(None, SimpleNamespace(global_step=first, max_steps=max_steps), None)
    for step in range(first + 1, first + steps + 1):
        clock.now += step_seconds
        control = SimpleNamespace(should_save=False)
        schedule.on_step_end(None, SimpleNamespace(global_step=step, max_steps=max_steps), control)
        if control.should_save:
            clock.now += save_seconds
            schedule.saved(save_seconds)
            saved.append(step)
    return saved


def waste(interval, cost, mean_time):
    """The share of time that goes to saving and to work that crashes lose on average."""
    return cost / interval + interval / 2 / mean_time


def test_the_interval_wastes_the_least_time():
    best = best_interval(4.0, 24 * HOUR)
    assert best == pytest.approx(math.sqrt(2 * 4 * 86400))
    least = waste(best, 4.0, 24 * HOUR)
    assert least < waste(best * 1.1, 4.0, 24 * HOUR) and least < waste(best * 0.9, 4.0, 24 * HOUR)


def test_auto_measures_one_checkpoint_after_a_minute_and_then_saves_as_often_as_pays(capsys):
    clock = Clock()
    schedule = CheckpointSchedule("auto", 24.0, clock)
    saved = run(schedule, clock, 500, step_seconds=2.0, save_seconds=0.5)
    interval = best_interval(0.5, 24 * HOUR)
    assert saved[0] == 30
    assert {later - earlier for earlier, later in pairwise(saved)} == {math.ceil(interval / 2)}
    line = capsys.readouterr().out
    assert line.startswith("Checkpoints about every 5 min: each takes 0.5 s (measured), 0.17% of the time")
    assert "a crash loses at most 5 min of work; one every 24 h is assumed." in line
    facts = schedule.facts()
    assert facts["crash_loses_seconds"] == pytest.approx(interval + 2.0 + 0.5, abs=0.01)
    assert facts["longest_gap_seconds"] <= facts["crash_loses_seconds"]


def test_auto_knows_the_cost_after_an_interruption():
    clock = Clock()
    schedule = CheckpointSchedule("auto", 1.0, clock)
    schedule.restore(0.125)
    assert run(schedule, clock, 40, step_seconds=1.0, save_seconds=0.125, first=100) == [130]


@pytest.mark.parametrize(("steps", "saved"), [(4, [4, 8, 10]), (100, [10])])
def test_a_number_of_steps_is_kept_and_the_last_step_is_always_saved(steps, saved):
    clock = Clock()
    assert run(CheckpointSchedule(steps, 24.0, clock), clock, 10, 1.0, 0.1, max_steps=10) == saved


def test_what_a_number_of_steps_costs_is_measured():
    clock = Clock()
    schedule = CheckpointSchedule(5, 24.0, clock)
    assert schedule.facts()["cost_percent"] is None
    run(schedule, clock, 20, step_seconds=2.0, save_seconds=0.5)
    facts = schedule.facts()
    assert facts["interval_seconds"] == pytest.approx(10.0)
    assert facts["cost_percent"] == pytest.approx(100 * 0.5 / 10.5, abs=0.001)
    assert facts["checkpoints"] == 4


@pytest.mark.parametrize(("seconds", "text"), [(4.25, "4.25 s"), (600, "10 min"), (12_600, "3.5 h")])
def test_durations_read_well(seconds, text):
    assert schedule_duration(seconds) == text


def logged(setting, max_steps):
    """The steps after which a line is written."""
    schedule, steps = LogSchedule(setting), []
    for step in range(1, max_steps + 1):
        control = SimpleNamespace(should_log=False)
        schedule.on_step_end(None, SimpleNamespace(global_step=step, max_steps=max_steps), control)
        steps += [step] * control.should_log
    return steps


@pytest.mark.parametrize("setting", ["auto", 1, 10, 1000])
@pytest.mark.parametrize("max_steps", [1, 2, 7, 29, 100])
def test_the_first_and_the_last_step_have_a_line(setting, max_steps):
    lines = logged(setting, max_steps)
    assert lines[0] == 1
    assert lines[-1] == max_steps


@pytest.mark.parametrize(
    ("max_steps", "fewest", "most"), [(29, 29, 29), (99, 50, 99), (400, 50, 100), (60_000, 6000, 6001)]
)
def test_auto_gives_fifty_lines_and_one_per_ten_steps(max_steps, fewest, most):
    assert fewest <= len(logged("auto", max_steps)) <= most


def test_a_number_of_steps_is_kept():
    assert logged(3, 10) == [1, 3, 6, 9, 10]
