"""Runs side by side: what differs, who is better, and a page that loads nothing."""

import json
import re
import shutil
from pathlib import Path

import pytest
from report_case import FOLDER

from snaketune.report import comparison_page
from snaketune.report.comparison import best, curve, differences, load_run, measures, relative
from snaketune.report.units import MINUS

INFO = {"train": {"seconds": 60.0, "finished": "2026-01-02T03:04:05+0000"}, "machine": {"host": "a", "gpu": None}}
NAMES = ("run.json", "evaluation.json", "adapter.manifest.json", "metrics.jsonl")


def make_run(results, name, id="lora-r8-00000000", info=INFO, **changes):
    """A finished run with the facts of the golden one, changed here and there."""
    folder = results / "runs" / name / id
    folder.mkdir(parents=True)
    for file in NAMES:
        shutil.copy(FOLDER / file, folder)
    run = json.loads((folder / "run.json").read_text()) | {"run": name}
    for key, value in changes.get("config", {}).items():
        run["config"][key] = {"value": value, "origin": "config.yaml"}
    (folder / "run.json").write_text(json.dumps(run))
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["tuned"] |= changes.get("tuned", {})
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "run_info.json").write_text(json.dumps(info))
    return load_run(folder)


def row(rows, label):
    return next(row for row in rows if row.label.startswith(label))


def test_only_keys_on_which_the_runs_disagree_are_listed(tmp_path):
    runs = [make_run(tmp_path, "a"), make_run(tmp_path, "b", config={"train.learning_rate": 0.5})]
    assert [(row.key, row.values[1]) for row in differences(runs)] == [("train.learning_rate", "0.5")]
    assert differences([runs[0], runs[0]]) == []


def test_the_better_value_of_a_row_wins_and_both_numbers_are_shown(tmp_path):
    runs = [make_run(tmp_path, "a", tuned={"loss": 1.0}), make_run(tmp_path, "b", tuned={"loss": 0.5})]
    loss = row(measures(runs), "Loss")
    assert loss.best == (False, True)
    assert loss.values == ("1.000", "0.5000")
    assert loss.differences == ("", f"{MINUS}50%")


@pytest.mark.parametrize(
    ("values", "higher", "expected"),
    [
        ([1, 2], True, (False, True)),
        ([1, 2], False, (True, False)),
        ([1, 2], None, (False, False)),
        ([2, 2.0001], True, (False, False)),
        ([1, None, 2], False, (True, False, False)),
        ([1, None], False, (False, False)),
        ([1, 1, 2], False, (True, True, False)),
    ],
)
def test_nobody_wins_alone_or_by_less_than_a_thousandth(values, higher, expected):
    assert best(values, higher) == expected


def test_a_difference_is_relative_to_the_first_run():
    assert relative(150, 100) == "+50%"
    assert relative(100, 100) == "equal"
    assert relative(None, 100) == relative(100, None) == relative(1, 0) == ""


def test_seconds_of_a_curve_add_up_the_measured_intervals(tmp_path):
    run = make_run(tmp_path, "a")
    lines = [
        {"step": 10, "loss": 2.0, "tokens": 1000, "tokens_per_second": 100.0},
        {"step": 10, "eval_loss": 1.9},
        {"step": 20, "loss": 1.0, "tokens": 3000, "tokens_per_second": 200.0},
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = load_run(run.folder)
    assert [(point.tokens, point.seconds) for point in curve(run, "loss")] == [(1000, 10.0), (3000, 20.0)]
    assert [(point.step, point.tokens, point.value) for point in curve(run, "eval_loss")] == [(10, 1000, 1.9)]


def test_time_of_a_resumed_run_is_not_compared(tmp_path):
    resumed = make_run(tmp_path, "b", info=INFO | {"resumed_from_step": 20})
    time = row(measures([make_run(tmp_path, "a"), resumed]), "Training time")
    assert time.values == ("1.00 min", "not measured")
    assert time.best == (False, False)
    assert any("resumed" in sentence for sentence in comparison_page.warnings([resumed, resumed]))


def test_the_page_is_whole_hostile_names_are_text_and_nothing_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("snaketune.report.bundle.charts_library", lambda: "/* the chart library */")
    first = make_run(tmp_path, "a", config={"data.system_prompt": "</script><img src=x onerror=alert(1)>"})
    runs = [first, make_run(tmp_path, "b", tuned={"loss": 0.001})]
    page = comparison_page.render_comparison(runs, comparison_page.find_runs(tmp_path), tmp_path)
    assert page == comparison_page.render_comparison(runs, comparison_page.find_runs(tmp_path), tmp_path)
    assert "<img" not in page and "http://" not in re.sub(r"http://www.w3.org\S*|https://vega\S*", "", page)
    assert page.count('href="runs/') == 2
    assert page.index('href="runs/b/') < page.index('href="runs/a/'), "the lowest loss comes first"


def test_unfinished_folders_and_the_latest_link_are_no_runs(tmp_path):
    run = make_run(tmp_path, "a")
    (run.folder.parent / "latest").symlink_to(run.folder.name)
    (make_run(tmp_path, "b").folder / "evaluation.json").unlink()
    assert [found.folder for found in comparison_page.find_runs(tmp_path)] == [Path(run.folder)]
