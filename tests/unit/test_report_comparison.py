"""Runs side by side: what differs, who is better, and a page that loads nothing."""

import json
import re
import shutil
from pathlib import Path

import pytest
from report_case import FOLDER

from snaketune.report.compare import comparison_page
from snaketune.report.compare.comparison import changed_settings, curve, load_run, relative
from snaketune.report.compare.comparison_verdict import comparison_verdict
from snaketune.report.compare.paired import compare_runs, scored
from snaketune.report.compare.ranking import Pairs, best, compared_measures, disk
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
    run["digests"] |= changes.get("digests", {})
    (folder / "run.json").write_text(json.dumps(run))
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["tuned"] |= changes.get("tuned", {})
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "run_info.json").write_text(json.dumps(info))
    write_lines(folder / "documents.jsonl", changes.get("documents", ()))
    write_lines(folder / "generations.jsonl", changes.get("generations", ()))
    return load_run(folder)


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def documents(losses):
    return [{"record": number, "tokens": 10, "tuned_nll": 10 * loss} for number, loss in enumerate(losses)]


def generations(right):
    return [
        {"prompt": f"q{number}", "reference": "a", "scores": {"tuned": {"exact_match": one, "chrf": 50.0}}}
        for number, one in enumerate(right)
    ]


def measured(runs):
    return compared_measures(runs, Pairs(runs))


def row(rows, label):
    return next(row for row in rows if row.label.startswith(label))


def test_only_keys_on_which_the_runs_disagree_are_listed(tmp_path):
    runs = [make_run(tmp_path, "a"), make_run(tmp_path, "b", config={"train.learning_rate": 0.5})]
    assert [(row.key, row.values[1]) for row in changed_settings(runs)] == [("train.learning_rate", "0.5")]
    assert changed_settings([runs[0], runs[0]]) == []


WORSE, BETTER = [1.0 + number % 7 / 100 for number in range(40)], [0.5 + number % 5 / 100 for number in range(40)]


def test_a_run_leads_where_the_paired_interval_leaves_out_zero_and_both_numbers_are_shown(tmp_path):
    runs = [
        make_run(tmp_path, "a", tuned={"loss": 1.0}, documents=documents(WORSE)),
        make_run(tmp_path, "b", tuned={"loss": 0.5}, documents=documents(BETTER)),
    ]
    rows = measured(runs)
    loss = row(rows, "Loss")
    assert loss.best == (False, True)
    assert loss.values == ("1.000", "0.5000")
    assert loss.differences == ("", f"{MINUS}50%")
    assert re.fullmatch(rf"95%: {MINUS}0\.5\d+ to {MINUS}0\.5\d+", loss.intervals[1])
    verdict = comparison_verdict(runs, Pairs(runs))
    assert (verdict.outcome, verdict.headline) == ("better", "b is better in held-out loss")
    assert "40 shared documents" in verdict.sentence


def test_nobody_leads_where_the_interval_covers_zero_or_there_is_none(tmp_path):
    wild = [loss + (1 if number % 2 else -0.99) for number, loss in enumerate(WORSE)]
    right = generations([number % 2 for number in range(40)])
    runs = [
        make_run(tmp_path, "a", tuned={"loss": 1.03}, documents=documents(WORSE), generations=right),
        make_run(tmp_path, "b", tuned={"loss": 1.02}, documents=documents(wild), generations=right[1:] + right[:1]),
    ]
    rows = measured(runs)
    assert row(rows, "Loss").best == row(rows, "Exact match").best == (False, False)
    assert row(rows, "Token accuracy").intervals == ("", "")
    verdict = comparison_verdict(runs, Pairs(runs))
    assert (verdict.outcome, verdict.headline) == ("same", "No clear difference between a and b")
    assert "that may be chance" in verdict.sentence
    alone = [make_run(tmp_path, "c", tuned={"loss": 1.0}), make_run(tmp_path, "d", tuned={"loss": 0.5})]
    assert row(measured(alone), "Loss").best == (False, False)
    assert comparison_verdict(alone, Pairs(alone)).outcome == "unknown"


def test_answers_and_loss_that_disagree_are_no_victory(tmp_path):
    few, many = generations([number < 5 for number in range(40)]), generations([number < 35 for number in range(40)])
    runs = [
        make_run(
            tmp_path, "a", tuned={"loss": 1.0, "exact_match": 0.875}, documents=documents(WORSE), generations=many
        ),
        make_run(
            tmp_path, "b", tuned={"loss": 0.5, "exact_match": 0.125}, documents=documents(BETTER), generations=few
        ),
    ]
    verdict = comparison_verdict(runs, Pairs(runs))
    assert verdict.outcome == "mixed"
    assert verdict.headline == "No run is best in everything: a in exact match and b in held-out loss"


def test_of_several_runs_those_that_cannot_be_told_apart_lead_together(tmp_path):
    runs = [
        make_run(tmp_path, "a", tuned={"loss": 1.03}, documents=documents(WORSE)),
        make_run(tmp_path, "b", tuned={"loss": 0.520}, documents=documents(BETTER)),
        make_run(tmp_path, "c", tuned={"loss": 0.521}, documents=documents(BETTER[::-1])),
    ]
    assert row(measured(runs), "Loss").best == (False, True, True)
    assert comparison_verdict(runs, Pairs(runs)).headline == "b and c are best in held-out loss"


def test_records_are_the_same_only_within_the_same_data(tmp_path):
    first, second = (
        make_run(tmp_path, name, documents=documents(WORSE), generations=generations([1])) for name in "ab"
    )
    assert compare_runs(scored(first), scored(second)).documents == 40
    second.run["digests"]["data"] = "another"
    found = compare_runs(scored(first), scored(second))
    assert (found.documents, found.answers) == (0, 1)


def test_what_a_run_leaves_on_the_disk_and_was_planned_to_take_are_rows(tmp_path):
    run = make_run(tmp_path, "a")
    (run.folder / "adapter").mkdir()
    (run.folder / "adapter" / "weights").write_bytes(bytes(1200))
    shutil.copy(FOLDER / "plan.json", run.folder)
    (run.folder / "evaluation_info.json").write_text('{"models": {"tuned": {"latency_median_s": 0.25}}}')
    rows = measured([load_run(run.folder), make_run(tmp_path, "b")])
    assert disk(run) == 1200
    assert row(rows, "Disk").values == ("1.2 kB", "not measured")
    assert row(rows, "Latency").values == ("0.250 s", "not measured")
    assert row(rows, "Planned time").values[0] != "not measured"


@pytest.mark.parametrize(
    ("gpu", "seconds", "winners"),
    [(None, 30.0, (False, False)), ({"name": "H200"}, 30.0, (False, True)), ({"name": "H200"}, 58.0, (False, False))],
)
def test_times_have_a_winner_only_on_one_gpu_and_by_more_than_noise(tmp_path, gpu, seconds, winners):
    machine = {"machine": {"host": "a", "gpu": gpu}}
    runs = [
        make_run(tmp_path, name, info=INFO | machine | {"train": INFO["train"] | {"seconds": one}})
        for name, one in (("a", 60.0), ("b", seconds))
    ]
    assert row(measured(runs), "Training time").best == winners


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
    time = row(measured([make_run(tmp_path, "a"), resumed]), "Training time")
    assert time.values == ("1.00 min", "not measured")
    assert time.best == (False, False)
    assert any("resumed" in sentence for sentence in comparison_page.warnings([resumed, resumed]))


def test_a_refused_merge_is_said_beside_the_figures_it_changes(tmp_path):
    on, off = ({"merge.enabled": value} for value in (True, False))
    merged = make_run(tmp_path, "a", config=on, digests={"merged": "0123"})
    runs = [merged, make_run(tmp_path, "b", config=on, digests={"merged": None})]
    said = [sentence for sentence in comparison_page.warnings(runs) if "merge" in sentence]
    assert len(said) == 1 and said[0].startswith("b has no merged model")
    assert said[0] in comparison_page.render_comparison(runs, runs, tmp_path)
    plain = make_run(tmp_path, "c", config=off, digests={"merged": None})
    assert not [sentence for sentence in comparison_page.warnings([merged, plain]) if "merge" in sentence]


def test_the_page_is_whole_hostile_names_are_text_and_nothing_is_loaded(tmp_path):
    first = make_run(tmp_path, "a", config={"data.system_prompt": "</script><img src=x onerror=alert(1)>"})
    runs = [first, make_run(tmp_path, "b", tuned={"loss": 0.001}), make_run(tmp_path, "c", tuned={"loss": 5.0})]
    for run in runs[:2]:
        (run.folder / "report.html").touch()
    page = comparison_page.render_comparison(runs, comparison_page.find_runs(tmp_path), tmp_path)
    assert page == comparison_page.render_comparison(runs, comparison_page.find_runs(tmp_path), tmp_path)
    assert "<img" not in page and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count('href="runs/') == 2, "a report that does not exist is not linked"
    assert page.index('href="runs/b/') < page.index('href="runs/a/'), "the lowest loss comes first"


def test_unfinished_folders_and_the_latest_link_are_no_runs(tmp_path):
    run = make_run(tmp_path, "a")
    (run.folder.parent / "latest").symlink_to(run.folder.name)
    (make_run(tmp_path, "b").folder / "evaluation.json").unlink()
    assert [found.folder for found in comparison_page.find_runs(tmp_path)] == [Path(run.folder)]
