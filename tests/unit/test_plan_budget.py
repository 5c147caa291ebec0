"""Steps, hours and dollars: the arithmetic of the source documents, done right."""

from dataclasses import replace
from datetime import datetime

import pytest

from snaketune.core.errors import PlanError
from snaketune.plan.costs.budget import (
    RunInputs,
    annual_usd,
    break_even_runs,
    budget_of,
    disk_gb,
    electricity_usd,
    finishes_at,
    hours_of,
    saves_of,
    sensitivity,
    steps_of,
)

RUN = RunInputs(
    rows=1000, tokens=3_600_000, tokens_per_second=1000, micro_batch=2, accumulation=4, price_per_gpu_hour=2.0
)


@pytest.mark.parametrize(("accumulation", "steps"), [(16, 3938), (32, 1969), (64, 985)])
def test_63000_messages_round_up_in_all_three_presets(accumulation, steps):
    assert steps_of(63_000, 1, accumulation) == steps


def test_steps_count_gpus_epochs_and_partial_batches():
    assert steps_of(10, 4, 1) == 3
    assert steps_of(10, 4, 2, epochs=3) == 6
    assert steps_of(1000, 2, 4, gpus=2) == steps_of(1000, 4, 4)
    assert steps_of(9488, 2, 4, epochs=3) == 3558


def test_3558_steps_at_1_25_per_second_are_47_minutes_not_hours():
    assert hours_of(3558, 1.25) * 60 == pytest.approx(47.4, abs=0.1)


def test_hours_divide_by_3600_once():
    assert hours_of(3_600_000, 1000) == 1.0
    assert hours_of(3_600_000, 1000, gpus=2, utilization=0.5) == 1.0
    for utilization in (0.0, -1.0):
        with pytest.raises(PlanError, match=r"plan\.utilization"):
            hours_of(1, 1000, utilization=utilization)


def test_utilisation_applies_to_an_estimated_rate_only():
    estimated = budget_of(replace(RUN, utilization=0.5))
    measured = budget_of(replace(RUN, utilization=0.5, measured=True))
    assert (estimated.train_hours, estimated.origin) == (2.0, "estimated")
    assert (measured.train_hours, measured.origin) == (1.0, "measured")


def test_budget_adds_what_is_not_training():
    budget = budget_of(
        replace(RUN, save_steps=25, save_seconds=72, evaluation_seconds=360, preparation_seconds=720, gpus=1)
    )
    assert (budget.steps, budget.saves, budget.tokens_total) == (125, 5, 3_600_000)
    assert budget.hours == pytest.approx(1 + 0.1 + 0.1 + 0.2)
    assert budget.cost_usd == pytest.approx(2.0 * 1.4)
    assert budget.checkpoint_share == pytest.approx(0.1 / 1.4)


def test_all_gpus_are_paid_for_all_hours():
    two = budget_of(replace(RUN, gpus=2))
    assert two.train_hours == 0.5
    assert two.cost_usd == pytest.approx(budget_of(RUN).cost_usd)
    assert budget_of(replace(RUN, price_per_gpu_hour=None)).cost_usd is None


def test_max_steps_cuts_the_tokens():
    assert budget_of(replace(RUN, max_steps=25)).tokens_total == 3_600_000 / 5
    assert budget_of(replace(RUN, epochs=2)).tokens_total == 7_200_000


def test_halving_28_saves_of_2_minutes_saves_1_percent_of_38_hours():
    assert saves_of(28_000, 1000) == 28
    assert saves_of(28_000, 2000) == 14
    assert saves_of(10, 0) == 1
    assert saves_of(11, 5) == 3
    assert pytest.approx(0.025, abs=0.001) == 28 * 2 / 60 / 38
    assert pytest.approx(0.012, abs=0.001) == 14 * 2 / 60 / 38


def test_accumulation_removes_no_work():
    row = sensitivity(RUN, {"accumulation 16": {"accumulation": 16}})[0]
    assert (row.hours_saved, row.speed_up, row.usd_saved) == (0, 1, 0)
    assert row.budget.steps < budget_of(RUN).steps


def test_time_reduction_and_speed_up_are_different_columns():
    row = sensitivity(RUN, {"twice the rate": {"tokens_per_second": 2000}})[0]
    assert (row.change, row.time_reduction, row.speed_up) == ("twice the rate", 0.5, 2.0)
    assert row.usd_saved == pytest.approx(1.0)
    unknown = replace(RUN, price_per_gpu_hour=None)
    assert sensitivity(unknown, {"same": {}})[0].usd_saved is None


def test_break_even_of_the_documents():
    assert int(break_even_runs(2000, 20, 0.30)) == 101
    assert int(break_even_runs(2000, 40, 0.30)) == 50
    assert break_even_runs(2000, 120, 0.30) == pytest.approx(16.7, abs=0.05)
    assert break_even_runs(2000, 0.3, 0.3) is None


def test_electricity_of_a_10_hour_run_at_home():
    assert electricity_usd(450, 10, 0.15) == pytest.approx(0.675)


def test_annual_cost_spreads_the_hardware():
    assert annual_usd(12, 0.30, 2000) == pytest.approx(2003.6)
    assert annual_usd(12, 0.30, 2000, years_of_use=4) == pytest.approx(503.6)
    assert annual_usd(12, 20) == 240


def test_friday_evening_and_35_hours_is_sunday_morning():
    end = finishes_at(datetime(2026, 11, 20, 18, 0), 35)
    assert end.strftime("%A %H:%M") == "Sunday 05:00"


def test_disk_holds_the_checkpoint_being_written_as_well():
    assert disk_gb(0.5, kept=2, merged_gb=16, data_gb=1) == 18.5
