"""plan.json on fixed facts: every number follows from a formula, what is measured wins, what is unknown stays so."""

import json
import re
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from plan_case import FRIDAY, MACHINE, MODEL, inputs, plan_of, rate_in, saved
from plan_models import LLAMA_2_7B, LLAMA_2_13B, MIXTRAL_8X7B, SMALL_MODELS

from snaketune.core.canonical import pretty_bytes
from snaketune.plan.costs.budget import RunInputs, budget_of
from snaketune.plan.costs.forecast import save_interval
from snaketune.plan.devices.machine import Machine
from snaketune.plan.flops import hardware_flops, shape_of
from snaketune.plan.gate import Gate, check_plan
from snaketune.plan.planning import make_plan
from snaketune.plan.remedy import written
from snaketune.plan.summary import describe_plan
from snaketune.plan.workload import squared_lengths, tokens_up_to
from snaketune.train.checkpoints.checkpoint_schedule import best_interval

A100 = {"gpu": "a100-80-sxm"}
PUBLIC = ("tokens_total", "steps", "train_hours", "cost_usd", "memory_gb", "disk_gb", "finishes_at")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def a100(folder):
    """One A100 for two epochs."""
    return plan_of(folder, plan=A100, train={"num_train_epochs": 2, "eval_steps": 50})


def test_every_public_number_has_a_unit_and_an_origin(a100):
    for name in PUBLIC:
        assert a100[name] is not None
        assert a100["about"][name]["unit"]
        assert a100["about"][name]["origin"] in ("estimated", "measured")


def test_tokens_and_steps_are_counted(a100):
    assert a100["tokens_total"] == 2 * 1_750_000
    assert a100["steps"] == 2 * 110  # 1,760 rows / 4 rows / 4 forward passes
    assert a100["about"]["steps"]["origin"] == "measured"


def test_hours_are_operations_over_the_share_of_the_peak(a100):
    squares = 4000 * 250**2 + 1000 * 750.5**2
    lora = a100["work"]["trained"]
    assert a100["work"]["checkpoint_every"] == 0
    flops = hardware_flops(shape_of(LLAMA_2_7B), 1_750_000, round(squares), lora)
    assert a100["train_hours"] == pytest.approx(2 * flops / (312e12 * 0.4) / 3600, rel=1e-4)
    assert a100["about"]["train_hours"]["low"] == pytest.approx(a100["train_hours"] * 0.4 / 0.55, rel=1e-4)
    assert a100["about"]["train_hours"]["high"] == pytest.approx(a100["train_hours"] * 0.4 / 0.25, rel=1e-4)


def test_cost_and_end_follow_from_all_hours(a100):
    over = a100["overheads"]
    parts = (over["checkpoint_hours"], over["evaluation_hours"], over["start_hours"])
    assert over["saves"] == 3
    assert over["evaluations"] == 4
    assert over["evaluation_hours"] * 3600 == pytest.approx(
        4 * 17_500 / 2 / a100["rate"]["tokens_per_second"], rel=1e-4
    )
    assert a100["hours"] == pytest.approx(a100["train_hours"] + sum(parts), rel=1e-4)
    assert a100["cost_usd"] == pytest.approx(a100["hours"] * 1.89, rel=1e-4)
    end = datetime.fromisoformat(a100["finishes_at"])
    assert abs(end - FRIDAY - timedelta(hours=a100["hours"])) < timedelta(seconds=2)


def test_disk_counts_checkpoints_results_and_what_is_there(a100):
    trained = a100["work"]["trained"]
    checkpoint, merged = trained * 12 / 1e9, MODEL["parameters"] * 2 / 1e9
    assert a100["disk"]["checkpoints"] == pytest.approx(3 * checkpoint, rel=1e-4)
    assert a100["disk_gb"] == pytest.approx(3 * checkpoint + trained * 4 / 1e9 + merged + 13.476831 + 0.03, rel=1e-4)


def test_a_given_price_replaces_the_catalogue_and_other_costs_are_added(folder):
    plan = plan_of(folder, plan=A100 | {"price_per_gpu_hour": 10, "other_costs_usd": {"labelling": 400}})
    assert plan["cost_usd"] == pytest.approx(10 * plan["hours"], rel=1e-4)
    assert plan["total_usd"] == pytest.approx(plan["cost_usd"] + 400, rel=1e-4)
    origins = {row["name"]: row["origin"] for row in plan["costs"]}
    assert origins["labelling"] == "given"
    assert origins["evaluation"] == "unknown"


def test_an_own_device_costs_its_electricity(folder):
    plan = plan_of(folder, plan=A100 | {"owned": True, "electricity_usd_per_kwh": 0.5})
    assert plan["cost_usd"] == pytest.approx(0.4 * 0.5 * plan["hours"], rel=1e-4)


def test_several_gpus_share_the_time_and_not_the_money(folder, a100):
    plan = plan_of(folder, plan=A100 | {"num_gpus": 2}, train={"num_train_epochs": 2, "strategy": "ddp"})
    assert plan["train_hours"] == pytest.approx(a100["train_hours"] / 2, rel=1e-4)
    row = next(row for row in plan["strategies"] if row["strategy"] == "fsdp")
    assert (row["speed_up_at_best"], row["price_ratio"], row["cheaper"]) == (2, 2, False)
    ddp = next(row for row in plan["strategies"] if row["strategy"] == "ddp")
    assert row["memory_gb_per_gpu"] < ddp["memory_gb_per_gpu"]


def test_a_cpu_is_unknown_and_unknown_stays_unknown(folder):
    plan = plan_of(folder)
    for name in ("train_hours", "hours", "cost_usd", "finishes_at"):
        assert plan[name] is None
        assert plan["about"][name]["origin"] == "unknown"
    assert plan["steps"] == 110
    assert plan["memory_gb"] > 27  # float32 weights
    assert all(row["hours"] is None for row in plan["sensitivity"])
    assert check_plan(plan) == Gate((), ())


def test_a_limit_that_cannot_be_checked_is_said_and_not_enforced(folder):
    plan = plan_of(folder, plan={"max_hours": 1, "max_cost_usd": 1})
    notes = list(check_plan(plan).notes)
    assert not check_plan(plan).stops
    assert len(notes) == 2
    assert all("cannot be checked" in note for note in notes)


def test_a_gpu_that_the_catalogue_lacks_is_unknown(folder):
    machine = Machine("here", "NVIDIA Unheard-of 9000", 1, 48.0, True, 64.0, 500.0)
    plan = plan_of(folder, {"machine": machine})
    assert plan["device"]["title"] == "NVIDIA Unheard-of 9000"
    assert plan["train_hours"] is None
    assert plan["memory_gb"] > 13


def test_the_gpu_of_this_machine_is_planned_for_with_the_memory_it_reports(folder):
    machine = Machine("here", "NVIDIA A100-SXM4-80GB", 1, 85.0, True, 64.0, 500.0)
    plan = plan_of(folder, {"machine": machine})
    assert (plan["device"]["id"], plan["device"]["is_here"], plan["device"]["memory_gb"]) == ("a100-80-sxm", True, 85.0)


def test_the_work_of_a_tiny_model_says_nothing_about_its_time(folder):
    small = {"model": MODEL | {"parameters": 4_000_000}}
    plan = plan_of(folder, small, config=SMALL_MODELS["llama"], plan=A100)
    assert plan["train_hours"] is None
    assert "only a run can tell" in plan["rate"]["source"]


def test_a_mixture_of_experts_is_planned_without_its_memory(tmp_path):
    plan = plan_of(tmp_path, {"model": MODEL | {"parameters": 46_702_792_704}}, config=MIXTRAL_8X7B, plan=A100)
    assert plan["memory_gb"] is None
    assert plan["train_hours"] > 0
    assert plan["fit"][0]["methods"] == {}
    assert any("mixture of experts" in note for note in plan["notes"])
    assert "unknown" in describe_plan(plan, "moe")


def finished_run(folder, plan, name, tokens=1_000_000, seconds=100.0, gpu="NVIDIA A100-SXM4-80GB", host="here"):
    """The files that a finished run leaves beside its plan."""
    run = folder / "results" / "runs" / name / "lora-r16-11111111"
    run.mkdir(parents=True)
    (run / "plan.json").write_bytes(pretty_bytes(plan))
    info = {
        "machine": {"gpu": {"name": gpu} if gpu else None, "host": host},
        "seconds": {"compute": seconds * 0.9, "data": seconds * 0.1, "evaluation": 3.0, "checkpoint": 2.0},
        "tokens_this_time": tokens,
        "peak_memory": {"resident_bytes": 9_000_000_000} | ({"gpu_bytes": 30_000_000_000} if gpu else {}),
        "checkpoints": {"seconds_per_checkpoint": 1.5},
        "train": {"finished": "2026-11-19T10:00:00+0000", "seconds": seconds + 25.0},
    }
    (run / "run_info.json").write_text(json.dumps(info))


def test_a_measured_rate_beats_the_estimate_and_is_not_multiplied_by_utilisation(tmp_path):
    before = plan_of(tmp_path, plan=A100)
    finished_run(tmp_path, before, "first")
    plan = plan_of(tmp_path, plan=A100 | {"utilization": 0.1})
    assert plan["rate"]["origin"] == plan["about"]["train_hours"]["origin"] == "measured"
    assert plan["rate"]["source"] == "measured by first/lora-r16-11111111"
    assert plan["train_hours"] == pytest.approx(1_750_000 / 10_000 / 3600, rel=1e-4)
    assert plan["overheads"]["start_hours"] == pytest.approx(20 / 3600, rel=1e-4)
    assert plan["overheads"]["seconds_per_save"] == 1.5
    assert plan["memory_gb"] == pytest.approx(30.8)
    assert plan["about"]["memory_gb"]["origin"] == "measured"


def test_two_measurements_give_their_median_and_their_spread(tmp_path):
    before = plan_of(tmp_path, plan=A100)
    for name, seconds in (("a", 100.0), ("b", 200.0), ("c", 125.0)):
        finished_run(tmp_path, before, name, seconds=seconds)
    rate = rate_in(tmp_path, plan=A100)
    assert (rate.tokens_per_second, rate.low, rate.high) == pytest.approx((8000, 5000, 10_000), rel=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        {"train": {"per_device_train_batch_size": 8}},
        {"model": {"name_or_path": "org/model", "quantization": "4bit"}},
        {"adapter": {"type": "none"}},
        {"plan": {"gpu": "h100-sxm"}},
    ],
)
def test_a_run_of_another_kind_measures_nothing_for_this_one(tmp_path, changed):
    finished_run(tmp_path, plan_of(tmp_path, plan=A100), "first")
    assert rate_in(tmp_path, **({"plan": A100} | changed)).origin == "estimated"


def test_a_rate_of_a_cpu_is_only_good_for_its_machine(tmp_path):
    finished_run(tmp_path, plan_of(tmp_path), "first", gpu=None, host="elsewhere")
    assert rate_in(tmp_path).origin == "unknown"
    finished_run(tmp_path, plan_of(tmp_path), "second", gpu=None, host="here")
    assert rate_in(tmp_path).tokens_per_second == pytest.approx(10_000, rel=1e-4)


def test_another_rank_is_brought_to_its_own_operations(tmp_path):
    finished_run(tmp_path, plan_of(tmp_path, plan=A100), "first")
    rate = rate_in(tmp_path, plan=A100, adapter={"r": 256})
    assert rate.origin == "measured"
    assert 8000 < rate.tokens_per_second < 9900


def test_a_run_that_was_trained_measures_its_own_next_plan(tmp_path):
    given = inputs(tmp_path, plan=A100)
    finished_run(tmp_path, make_plan(given), "own")
    own = replace(given, own=tmp_path / "results" / "runs" / "own" / "lora-r16-11111111")
    (own.own / "plan.json").unlink()  # as Snakemake does before the job
    assert make_plan(own)["rate"]["origin"] == "measured"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_hours": 0.05}, "plan.max_hours: 0.05 but this run is planned to take 6.3 min (estimated, 4.6 min"),
        ({"max_cost_usd": 0.1}, "plan.max_cost_usd: 0.1 but this run is planned to take $0.2"),
    ],
)
def test_over_a_limit_is_one_sentence_with_the_nearest_setting(folder, limits, words):
    plan = plan_of(folder, plan=A100 | limits)
    (sentence,) = check_plan(plan).stops
    assert words in sentence
    assert "set train.num_train_epochs to 0." in sentence
    assert sentence.endswith("or raise the limit.")
    assert "\n" not in sentence
    epochs = float(sentence.split("num_train_epochs to ")[1].split(",")[0])
    assert not check_plan(plan_of(folder, plan=A100 | limits, train={"num_train_epochs": epochs})).stops


def test_other_costs_count_against_the_limit(folder):
    plan = plan_of(folder, plan=A100 | {"max_cost_usd": 100, "other_costs_usd": {"labelling": 150}})
    assert "lower plan.other_costs_usd" in check_plan(plan).stops[0]


def test_what_cannot_fit_stops_with_the_next_smaller_setting(folder):
    plan = plan_of(folder, plan={"gpu": "rtx3090"}, adapter={"type": "none"})
    (sentence,) = check_plan(plan).stops
    assert re.match(r"plan.gpu: RTX 3090 has 24.0 GB and this run needs \d+\.\d GB \(estimated, ", sentence)
    assert f"DOES NOT START: {sentence}" in describe_plan(plan | {"stops": [sentence]}, "one")


def test_an_unknown_rate_comes_with_the_command_that_measures_it(folder):
    small = {"model_folder": saved(SMALL_MODELS["llama"])}
    here, elsewhere = plan_of(folder, small), plan_of(folder, small, plan={"gpu": "rtx3090"})
    assert "measure    snakemake --cores all plan --config 'plan={probe: true}'" in describe_plan(here, "one")
    assert "at least" in describe_plan(here, "one")
    assert "plan={probe" not in describe_plan(elsewhere, "one"), "a probe here says nothing about another device"


def test_refusal_advice_and_table_recommend_the_same_and_agree_on_the_memory(folder):
    """A 13B run on a card of 24 GB, which was told 8 bit in one place and 4 bit in another."""
    card = {"gpu": "rtx4090"}
    plan = plan_of(folder, {"model_folder": saved(LLAMA_2_13B)}, plan=card)
    (sentence,) = check_plan(plan).stops
    (advice,) = [one["choice"] for one in plan["advice"] if one["topic"] == "method"]
    assert plan["remedy"]["changes"] and advice == ", ".join(
        f"{key}: {written(value)}" for key, value in plan["remedy"]["changes"].items()
    )
    assert all(f"{key} to {written(value)}" in sentence for key, value in plan["remedy"]["changes"].items())
    (row,) = [row["methods"] for row in plan["fit"] if row["id"] == "rtx4090"]
    assert row["lora"]["needs_gb"] == plan["least_memory_gb"], "the least that LoRA takes is one number"
    assert f"{plan['least_memory_gb']:.1f} GB at least" in sentence
    assert row["4bit"]["least_gb"] < row["8bit"]["least_gb"] < row["lora"]["least_gb"]
    assert plan["remedy"]["needs_gb"] * 1.1 <= 24
    assert plan["ownership"]["break_even_runs"] is None, "nobody buys a card that the run does not fit"


def test_a_full_disk_stops_before_training(folder):
    plan = plan_of(folder, {"machine": replace(MACHINE, free_disk_gb=2.0)}, plan=A100)
    (sentence,) = check_plan(plan).stops
    assert re.match(r"paths.results: 2.0 GB are free on its disk and the run writes 1\d\.\d GB", sentence)


def test_the_fit_table_has_every_gpu_and_method(a100):
    rows = {row["id"]: row["methods"] for row in a100["fit"]}
    assert set(rows["rtx3090"]) == {"lora", "8bit", "4bit", "full"}
    assert rows["rtx3090"]["full"]["verdict"] == "no"
    assert rows["rtx3090"]["4bit"]["verdict"] == "fits"
    assert rows["h200-sxm"]["lora"] == {**rows["h200-sxm"]["lora"], "verdict": "fits", "with": {}}
    assert rows["h100-sxm"]["lora"]["cost_usd"] == pytest.approx(
        2.5 * rows["h100-sxm"]["lora"]["train_hours"], rel=1e-4
    )


def test_sensitivity_shows_reduction_and_speed_up_apart(a100):
    rows = {row["change"]: row for row in a100["sensitivity"]}
    half = rows["half the training"]
    assert half["speed_up"] == pytest.approx(a100["hours"] / half["hours"], rel=1e-3)
    assert half["time_reduction"] == pytest.approx(1 - half["hours"] / a100["hours"], rel=1e-3)
    assert rows["twice the accumulation"]["steps"] == 110
    assert abs(rows["twice the accumulation"]["time_reduction"]) < 0.01
    assert rows["every layer recomputed"]["speed_up"] < 0.75
    assert rows["padding instead of packing"]["speed_up"] < 0.5


def test_advice_comes_from_the_data_and_the_device(folder):
    small = plan_of(
        folder, plan={"gpu": "rtx4090", "domain_shift": True}, data={"sources": ["a"], "format": "preference"}
    )
    choices = {one["topic"]: one["choice"] for one in small["advice"]}
    assert choices["training"] == "sft, then dpo"
    assert choices["preset"] == "optimized"  # nothing was trained here before


def test_break_even_and_a_year(folder, a100):
    own = a100["ownership"]
    assert own["rented_usd_per_run"] == pytest.approx(1.89 * a100["hours"], rel=1e-4)
    assert own["owned_usd_per_run"] == pytest.approx(0.4 * 0.15 * a100["hours"], rel=1e-4)
    saved = own["rented_usd_per_run"] - own["owned_usd_per_run"]
    assert own["break_even_runs"] == pytest.approx(25_000 / saved, rel=1e-4)
    assert own["owned_usd_per_year"] == pytest.approx(12 * own["owned_usd_per_run"] + 25_000 / 3, rel=1e-4)


def test_the_terminal_shows_ten_lines_first_and_never_a_number_for_the_unknown(folder, a100):
    lines = describe_plan(a100, "mine", FRIDAY).splitlines()
    assert lines[0].startswith("Plan of mine: 6,738,415,616 parameters")
    assert [line.split()[0] for line in lines[1:7]] == ["tokens", "steps", "throughput", "training", "total", "ends"]
    assert "Fri 18:00 -> Fri 18:1" in lines[6]
    assert max(map(len, lines[:11])) < 140
    unknown = describe_plan(plan_of(folder), "mine").splitlines()
    assert [line.split()[1] for line in unknown[3:5]] == ["unknown", "unknown"]


def test_an_early_stop_makes_the_figures_an_upper_bound(folder):
    stopping = plan_of(folder, train={"eval_steps": 10, "early_stopping_patience": 3})
    assert [note for note in stopping["notes"] if "early_stopping_patience is 3" in note and "upper bound" in note]
    assert not [note for note in plan_of(folder)["notes"] if "upper bound" in note]


def test_gpus_of_which_the_same_is_true_share_a_line(folder):
    plan = plan_of(folder)
    first, last, count = plan["fit"][0], plan["fit"][-1], len(plan["fit"])
    same = [{**row, "methods": first["methods"]} for row in plan["fit"][:-1]]
    lines = describe_plan({**plan, "fit": [*same, last]}, "mine").splitlines()
    start = next(number for number, line in enumerate(lines) if "On one GPU" in line)
    table = lines[start + 1 : lines.index("", start)]
    assert [line.split("  ")[1] for line in table] == [
        f"{first['title']} to {plan['fit'][-2]['title']} ({count - 1})",
        last["title"],
    ]


def test_squares_of_lengths_leave_out_what_is_dropped_and_cut_what_is_cut():
    bins = [{"from": 0, "to": 21, "records": 2}, {"from": 91, "to": 110, "records": 1}]
    assert squared_lengths(bins, 50, "drop") == 200
    assert squared_lengths(bins, 50, "truncate") == 200 + 2500
    assert tokens_up_to(bins, 50) == pytest.approx(20 / 120)


def test_fixed_facts_give_fixed_numbers(folder):
    """Nothing but the inputs decides: no clock, no machine beyond what is given."""
    assert plan_of(folder, plan=A100) == plan_of(folder, plan=A100)


def test_automatic_checkpoints_come_as_often_as_training_will_decide():
    whole = budget_of(RunInputs(rows=36_000, tokens=36_000_000, tokens_per_second=1000))
    settings = {"save_steps": "auto", "hours_between_interruptions": 24.0}
    seconds_per_step = 36_000 / whole.steps
    assert save_interval(settings, whole, 10.0) == round(best_interval(10.0, 24 * 3600) / seconds_per_step)
    assert save_interval(settings, whole, None) == 0
    assert save_interval({"save_steps": 7}, whole, None) == 7
