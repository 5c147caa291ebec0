"""The ladder, the calendar, what several GPUs say to each other, and what the stages before took."""

import re
from datetime import UTC, datetime

import pytest
from plan_case import FRIDAY, plan_of
from test_plan_planning import A100, finished_run

from snaketune.core.errors import ConfigError
from snaketune.plan.costs.calendar import schedule
from snaketune.plan.costs.past_runs import preparation_seconds
from snaketune.plan.devices.hardware import load_catalogue, load_ladder
from snaketune.plan.summary import describe_plan
from snaketune.report.plan.plan_page import plan_sections


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def plan(folder):
    return plan_of(folder, plan=A100 | {"trainings_per_year": 12, "years_of_use": 4}, train={"num_train_epochs": 20})


def test_the_ladder_goes_from_the_desk_to_the_data_centre(plan):
    steps = {row["step"]: row for row in plan["ladder"]}
    assert list(steps) == ["home", "budget cloud", "professional", "enterprise"]
    home, cloud = steps["home"], steps["budget cloud"]
    assert (home["device"], home["verdict"], home["with"]) == (
        "rtx5090",
        "fits",
        {"train.gradient_checkpointing": True, "train.checkpoint_every_n_layers": 2},
    )
    assert home["usd_per_run"] == pytest.approx(home["train_hours"] * 0.575 * 0.15, rel=1e-4)
    assert home["usd_per_year"] == pytest.approx(12 * home["usd_per_run"] + 1999 / 4, rel=1e-4)
    assert cloud["usd_per_year"] == pytest.approx(12 * cloud["usd_per_run"], rel=1e-4)
    assert cloud["hardware_usd"] is None
    assert all(row["origin"] == "estimated" for row in plan["ladder"])


def test_each_step_shows_its_cheapest_device_that_fits(plan):
    fit = {row["id"]: row["methods"]["lora"] for row in plan["fit"]}
    (step,) = [row for row in plan["ladder"] if row["step"] == "professional"]
    costs = {name: fit[name]["cost_usd"] for name in ("a100-40-sxm", "a100-80-sxm", "a100-80-pcie")}
    assert step["device"] == min(costs, key=costs.get)


def test_a_step_on_which_nothing_fits_says_what_comes_nearest(folder):
    plan = plan_of(folder, plan=A100, adapter={"type": "none"})
    home = plan["ladder"][0]
    assert home["verdict"] == "no"
    assert home["usd_per_run"] is home["usd_per_year"] is None


def test_seconds_of_training_have_no_price_of_a_year_and_no_digits_elsewhere(folder):
    short = plan_of(folder, plan=A100, train={"max_steps": 1, "gradient_accumulation_steps": 1})
    assert short["train_hours"] < 1 / 60 and {row["usd_per_year"] for row in short["ladder"]} == {None}
    assert short["ownership"]["break_even_runs"] is short["ownership"]["rented_usd_per_year"] is None
    told = describe_plan(short, "one", FRIDAY)
    assert "a year" not in told and "under a minute a run (estimated" in told and "pays off after" not in told
    assert not re.search(r"fits [\d.]+ GB [\d.]+ s", told)
    page = plan_sections(short)
    assert {(row["run"], row["year"]) for row in page["ladder"] if row["verdict"] == "fits"} == {
        ("next to nothing",) * 2
    }
    assert any("under a minute" in words for row in page["fit"] for _, words in row["cells"])
    assert not any("$" in words for row in page["fit"] for _, words in row["cells"])


def test_the_ladder_only_has_devices_of_the_catalogue(tmp_path):
    known = {device.id for device in load_catalogue()}
    assert all(set(step.devices) <= known for step in load_ladder())
    path = tmp_path / "hardware.yaml"
    path.write_text("devices: []\nladder: [{id: a, title: A, pays: rent, devices: [abacus]}]\n")
    with pytest.raises(ConfigError, match=r"ladder a has 'abacus'"):
        load_ladder(path)


def test_friday_evening_to_saturday_morning():
    rows = schedule(datetime(2026, 11, 18, 11, 30, tzinfo=UTC), 13 + 40 / 60)
    assert [row["name"] for row in rows] == ["now", "evening", "friday"]
    assert rows[0]["text"] == "Wed 11:30 -> Thu 01:10"
    assert rows[2]["text"] == "Fri 18:00 -> Sat 07:40"
    assert schedule(FRIDAY, 35)[-1]["text"] == "Fri 18:00 -> Sun 05:00"
    assert schedule(FRIDAY, 200)[0]["text"] == "Fri 18:00 -> Sun 02:00 (29 Nov)"
    assert schedule(FRIDAY, None) == []


def test_the_plan_has_the_calendar(plan):
    assert plan["calendar"][0]["end"] == plan["finishes_at"]


def strategies(plan):
    return {row["strategy"]: row for row in plan["strategies"]}


def test_an_adapter_sends_little_and_sharded_weights_much(plan):
    found = strategies(plan)
    trained = plan["work"]["trained"]
    # Two GPUs: 2 · 1/2 of the float32 gradients once per step over 300 GB/s of which 70% are reached.
    assert found["ddp"]["communication_seconds_per_step"] == pytest.approx(trained * 4 / (300e9 * 0.7), rel=1e-3)
    assert found["ddp"]["speed_up"] > 1.99
    sharded = 4 * 0.5 * (2 * 6_738_415_616 * 2 + trained * 4) / (300e9 * 0.7)
    assert found["fsdp"]["communication_seconds_per_step"] == pytest.approx(sharded, rel=1e-3)
    assert found["fsdp"]["speed_up"] < found["fsdp"]["speed_up_high"] <= 2
    assert found["fsdp"]["cost_usd"] > found["single"]["cost_usd"] == pytest.approx(plan["cost_usd"], rel=1e-4)


def test_a_slow_link_makes_sharding_slow(folder):
    slow = strategies(plan_of(folder, plan={"gpu": "a100-80-pcie"}))["fsdp"]
    assert slow["speed_up"] < 1.7
    assert not slow["cheaper"]


def test_an_unknown_rate_or_link_leaves_the_efficiency_unknown(folder):
    from snaketune.plan.devices.machine import Machine

    machine = Machine("here", "NVIDIA Unheard-of 9000", 1, 48.0, True, 64.0, 500.0)
    row = strategies(plan_of(folder, {"machine": machine}))["ddp"]
    assert (row["efficiency"], row["hours"], row["efficiency_origin"]) == (None, None, "unknown")
    assert row["speed_up_at_best"] == 2


def test_the_efficiency_of_runs_on_one_and_on_two_is_measured(tmp_path):
    two = {"num_gpus": 2}
    finished_run(tmp_path, plan_of(tmp_path, plan=A100, train={"strategy": "ddp"}), "alone")
    finished_run(tmp_path, plan_of(tmp_path, plan=A100 | two, train={"strategy": "ddp"}), "both", tokens=1_800_000)
    row = strategies(plan_of(tmp_path, plan=A100 | two, train={"strategy": "ddp"}))["ddp"]
    assert (row["efficiency_origin"], row["efficiency"]) == ("measured", pytest.approx(0.9))


def test_the_seconds_of_the_stages_before_come_from_snakemakes_benchmarks(tmp_path):
    (tmp_path / "a.tsv").write_text("s\th:m:s\tmax_rss\n12.5\t0:00:12\t7\n")
    (tmp_path / "b.tsv").write_text("nothing")
    given = {name: str(tmp_path / f"{name}.tsv") for name in ("a", "b", "c")}
    assert preparation_seconds(given) == {"a": 12.5}


def test_the_sensitivity_table_has_all_axes(plan, folder):
    changes = " ".join(row["change"] for row in plan["sensitivity"])
    for axis in ("documents of at most", "micro-batch", "accumulation", "4-bit", "checkpoints", "recomputed"):
        assert axis in changes
    assert "float8" not in changes  # an A100 has none
    h100 = plan_of(folder, plan={"gpu": "h100-sxm"})
    assert next(row for row in h100["sensitivity"] if "float8" in row["change"])["speed_up"] > 1.2


def test_twice_the_accumulation_is_the_same_work_also_where_the_steps_are_given(folder):
    plan = plan_of(folder, plan=A100, train={"max_steps": 100, "gradient_accumulation_steps": 1})
    rows = {row["change"]: row for row in plan["sensitivity"]}
    assert rows["twice the accumulation"]["steps"] == 50
    assert abs(rows["twice the accumulation"]["time_reduction"]) < 0.02
    assert "twice the micro-batch" not in rows, "without accumulation that would be a batch twice as large"
