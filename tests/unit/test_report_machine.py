"""What was measured while the run was made, and what went before it."""

import os

import orjson
import pytest
from report_case import facts_with, replaced

from snaketune.facts.measured import RUN_INFO
from snaketune.report.charts.curves import Curve, gather, growing_lines
from snaketune.report.charts.loss_charts import loss_chart, loss_over_dollars, loss_over_time, loss_over_tokens
from snaketune.report.run.history import changes, machine_facts, run_before, stage_times, timeline
from snaketune.report.run.machine_section import checkpoint_rows, rate_charts, time_split, token_costs, took


def facts_of(lines, **changes):
    metrics = gather(lines)
    return facts_with(curves=metrics.curves, rates=metrics.rates, progress=metrics.progress, **changes)


def line(step, loss, seconds, tokens):
    return {"step": step, "loss": loss, "tokens": tokens, "tokens_per_second": 9.0, "compute_seconds": seconds}


LINES = [
    line(1, 4.0, 30.0, 100),
    line(2, 3.0, 30.0, 300),
    {"step": 2, "eval_loss": 3.5},
    {**line(3, 2.0, 30.0, 400), "checkpoint_seconds": 30.0},
]


def places(chart):
    return [(x, value, one.name) for one in chart.plot.series for x, value in one.points]


def test_one_loss_is_drawn_over_steps_tokens_time_and_money():
    plan = {"device": {"price_per_gpu_hour": 60.0, "gpus": 2, "is_here": True}}
    facts = facts_of(LINES, plan=plan)
    assert places(loss_chart(facts))[-1] == (2, 3.5, "held-out")
    assert places(loss_over_tokens(facts))[:3] == [
        (100, 4.0, "training"),
        (300, 3.0, "training"),
        (400, 2.0, "training"),
    ]
    assert [x for x, _, _ in places(loss_over_time(facts))] == [0.5, 1.0, 2.0, 1.0]  # minutes
    assert [x for x, _, _ in places(loss_over_dollars(facts))] == [1.0, 2.0, 4.0, 2.0]
    assert loss_over_time(facts).rows[1] == ("2", "1.00", "3.000", "3.500")


def test_money_needs_a_price_and_the_machine_that_was_planned_for():
    there = {"device": {"price_per_gpu_hour": 60.0, "gpus": 1, "is_here": False}}
    assert loss_over_dollars(facts_of(LINES, plan=there)) is None
    assert loss_over_dollars(facts_of(LINES, plan=None)) is None


def test_time_is_not_drawn_where_it_was_not_logged():
    facts = facts_of([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}])
    assert loss_chart(facts) is not None
    assert loss_over_tokens(facts) is None
    assert loss_over_time(facts) is None


def test_what_is_measured_is_drawn_and_what_is_not_is_not():
    facts = facts_with(rates={"tokens_per_second": Curve(((1, 5.0), (2, 6.0))), "mfu": Curve((), 2)})
    assert [chart.name for chart in rate_charts(facts)] == ["tokens_per_second"]


def test_the_parts_of_the_time_are_the_whole():
    facts = facts_with()
    seconds, whole = facts.info["seconds"], facts.info["train"]["seconds"]
    parts = time_split(facts)
    assert parts[0].label == "Computing"
    assert float(parts[-1].start) + float(parts[-1].width) == pytest.approx(100, abs=0.1)
    assert float(parts[0].width) == pytest.approx(100 * seconds["compute"] / whole, abs=0.01)
    assert time_split(facts_with(info=None)) == ()


def test_checkpoints_say_how_often_and_what_they_cost():
    found = {
        "save_steps": "auto",
        "checkpoints": 14,
        "seconds_per_checkpoint": 6.0,
        "interval_seconds": 1020.0,
        "cost_percent": 0.59,
        "crash_loses_seconds": 1030.0,
    }
    facts = facts_with(info={**facts_with().info, "checkpoints": found})
    shown = dict(checkpoint_rows(facts))
    assert shown["How often"] == "about every 17.0 min, chosen by cost"
    assert shown["Of the training time"] == "0.6%"
    assert shown["Checkpoints written"] == "14"


def test_padding_and_what_was_left_out_have_a_price():
    pack = {"row_length": 100, "splits": {"train": {"rows": 10, "tokens": 900, "trainable_tokens": 500}}}
    sizes = {"tokens_truncated": 0, "tokens_dropped": 500}
    info = {"seconds": {"compute": 3600.0}, "train": {"seconds": 4000.0}}
    plan = {"device": {"price_per_gpu_hour": 2.0, "gpus": 1, "is_here": True}}
    padding, dropped = token_costs(facts_with(pack=pack, rightsize=sizes, info=info, plan=plan))
    assert (padding.tokens, padding.share, padding.time, padding.cost) == ("100", "10.0%", "6.00 min", "$0.20")
    assert (dropped.label, dropped.cost) == ("Saved by dropping tokens", "$1.00")
    unknown = token_costs(facts_with(pack=pack, rightsize=sizes, info={}, plan=None))
    assert (unknown[0].time, unknown[0].cost) == ("not measured", "unknown")


def test_time_and_money_are_in_one_sentence_beside_the_plan():
    plan = {"hours": 3.0, "cost_usd": 6.0, "device": {"price_per_gpu_hour": 2.0, "gpus": 1, "title": "L4"}}
    info = {"train": {"seconds": 7200.0}, "machine": {"gpu": {"name": "NVIDIA L4"}}}
    facts = facts_with(plan=plan, info=info)
    assert (
        took(facts)
        == "Training took 2.00 h (planned: 3.00 h) and cost $4.00 of computing (planned: $6.00) on NVIDIA L4."
    )
    assert took(replaced(facts, info={**info, "resumed_from_step": 7})) == ""


def test_a_resumed_metrics_file_goes_on_in_tokens_and_time():
    progress = gather([line(1, 1.0, 10.0, 50), line(2, 1.0, 20.0, 90), {"step": 2, "eval_loss": 1.0}]).progress
    assert (progress[2].tokens, progress[2].seconds) == (90, 30.0)


def test_a_half_written_line_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step":1}\n{"step":2')
    assert growing_lines(tmp_path / "metrics.jsonl") == [{"step": 1}]
    assert growing_lines(tmp_path / "none.jsonl") == []


def test_stages_tell_what_ran_and_what_was_reused(tmp_path):
    lock = tmp_path / "lock"
    stages = []
    for name, ended in (("read_records", 1000), ("train_model", 3000)):
        path = tmp_path / f"{name}.tsv"
        path.write_text("s\th:m:s\n20.5\t0:00:20\n")
        os.utime(path, (ended, ended))
        stages.append({"stage": name, "id": "a-1", "benchmark": str(path)})
    stages.append({"stage": "merge_adapter", "id": "a-1", "benchmark": str(tmp_path / "none.tsv")})
    lock.touch()
    os.utime(lock, (2000, 2000))
    noted = stage_times(stages, lock)
    assert [one["reused"] for one in noted] == [True, False, None]
    rows = timeline(facts_with(history={"stages": noted, "before": None}))
    assert [(row.title, row.state, row.seconds) for row in rows] == [
        ("Reading records", "reused", "20.5 s"),
        ("Training", "ran", "20.5 s"),
        ("Merging", "unknown", ""),
    ]
    assert rows[1].bar.width == "100.00"
    assert rows[0].bar is None


def finished(folder, run, id, at, **config):
    place = folder / "runs" / run / id
    place.mkdir(parents=True)
    entries = {key.replace("__", "."): {"value": value, "origin": "x"} for key, value in config.items()}
    (place / "run.json").write_bytes(orjson.dumps({"run": run, "id": id, "config": entries}))
    (place / "run_info.json").write_bytes(orjson.dumps({"train": {"finished": at}}))
    return place


def test_the_run_before_is_the_earlier_variant_of_the_same_run_if_there_is_one(tmp_path):
    finished(tmp_path, "one", "a", "2026-01-01T10:00:00+0000", train__seed=1)
    finished(tmp_path, "one", "b", "2026-01-02T10:00:00+0000", train__seed=2)
    finished(tmp_path, "two", "c", "2026-01-03T10:00:00+0000", train__seed=3)
    finished(tmp_path, "one", "later", "2026-01-05T10:00:00+0000", train__seed=9)
    own = finished(tmp_path, "one", "d", "2026-01-04T10:00:00+0000", train__seed=4)
    (tmp_path / "runs" / "one" / "latest").symlink_to("d")
    before = run_before(tmp_path, own, RUN_INFO.read(own / "run_info.json"))
    assert (before["run"], before["id"], before["config"]) == ("one", "b", {"train.seed": 2})
    first = tmp_path / "runs" / "one" / "a"
    assert run_before(tmp_path, first, RUN_INFO.read(first / "run_info.json")) is None
    other = finished(tmp_path, "new", "e", "2026-01-03T12:00:00+0000")
    assert run_before(tmp_path, other, RUN_INFO.read(other / "run_info.json"))["id"] == "c"


def test_the_configuration_is_compared_with_the_run_before():
    config = {"adapter.r": {"value": 16}, "train.seed": {"value": 1}, "new.key": {"value": True}}
    before = {
        "run": "one",
        "id": "b",
        "finished": "2026-01-02T10:00:00+00:00",
        "config": {"adapter.r": 8, "train.seed": 1},
    }
    found = changes(facts_with(run={"config": config}, history={"before": before}))
    assert found.rows == (("adapter.r", "8", "16"), ("new.key", "not set", "true"))
    assert (found.name, found.finished) == ("one b", "2026-01-02 10:00")
    assert changes(facts_with(history=None)) is None


def test_commit_and_uncommitted_changes_are_told():
    info = {"git": {"commit": "c0ffee", "uncommitted": "d1617"}, "machine": {"gpu": None, "host": "h"}}
    shown = dict(machine_facts(facts_with(info=info)))
    assert (shown["git commit"], shown["uncommitted changes"], shown["GPU"]) == ("c0ffee", "d1617", "none")
    assert dict(machine_facts(facts_with(info={"git": None})))["git commit"] == "not a git checkout"
