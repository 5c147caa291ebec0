"""The evaluation in parts, and what an interval allows to say."""

import pytest
from report_case import evaluation_of, facts_with

from snaketune.report.report_facts import load_facts
from snaketune.report.run.answers import ShownAnswers, collect_by_file
from snaketune.report.run.breakdown import file_parts, length_parts, source_parts, task_rows
from snaketune.report.run.evaluation_table import metric_rows
from snaketune.report.run.findings import findings
from snaketune.report.run.judging import judge
from snaketune.report.run.machine_section import speeds
from snaketune.report.run.page import render_run
from snaketune.report.run.verdict import verdict


def measured(low, high, base=1.0, tuned=0.9, **own):
    moved = {"loss": {"difference": tuned - base, "low": low, "high": high}}
    return {
        "base": {"loss": base, "n": 100} | own,
        "tuned": {"loss": tuned, "n": 100} | own,
        "differences": {"tuned_minus_base": moved},
    }


@pytest.mark.parametrize(
    ("low", "high", "base", "tuned", "outcome", "word"),
    [
        (-0.2, -0.01, 1.0, 0.9, "better", "better"),
        (0.01, 0.2, 0.9, 1.0, "worse", "worse"),
        (-0.2, 0.01, 1.0, 0.9, "same", "may be chance"),
        (-0.0004, -0.0001, 1.0, 0.9998, "slight", "better"),
    ],
)
def test_a_loss_is_called_better_when_its_interval_leaves_out_zero_and_it_fell_by_something(
    low, high, base, tuned, outcome, word
):
    evaluation = measured(low, high, base, tuned)
    assert judge(evaluation_of(evaluation), ShownAnswers()) == outcome
    (row,) = metric_rows(evaluation_of(evaluation))
    assert row.tuning.note == word and row.tuning.interval.startswith("95%: ")
    assert ("which may be chance" in verdict(facts_with(evaluation=evaluation)).sentence) is (outcome == "same")


def test_answers_decided_by_a_number_are_judged_by_it():
    evaluation = {
        "base": {"exact_match": 0.0, "numeric_match": 0.1, "n_generated": 200, "decided_by": "numeric_match"},
        "tuned": {"exact_match": 0.0, "numeric_match": 0.6, "n_generated": 200, "decided_by": "numeric_match"},
    }
    answers = ShownAnswers({"fixed": 110, "broken": 10, "wrong": 70, "right": 10})
    found = verdict(facts_with(evaluation=evaluation, answers=answers))
    assert found.outcome == "better"
    assert "right number on 200 held-out requests rose from 10.0% to 60.0%" in found.sentence
    assert found.figures[0].label == "Right number"


def test_a_measure_that_applies_to_some_answers_says_to_how_many():
    model = {"json_valid": 0.5, "n_generated": 40, "n_scored": {"json_valid": 8}}
    (row,) = metric_rows(evaluation_of({"base": model, "tuned": model}))
    assert row.tuned.note == "of 8 answers"


def test_parts_are_named_and_judged():
    facts = facts_with()
    sources = source_parts(facts.evaluation, ["a.jsonl"])
    assert [part.label for part in sources] == ["a.jsonl", "source 1"]
    assert [part.word for part in sources] == ["better", "may be chance"]
    assert [part.label for part in length_parts(facts.evaluation)] == ["16 to 31", "32 to 63"]
    nothing = evaluation_of({})
    assert source_parts(nothing, []) == length_parts(nothing) == task_rows(nothing) == file_parts(nothing, {}) == ()


def test_files_and_tasks_have_tables_of_their_own():
    facts = facts_with()
    (part,) = file_parts(facts.evaluation, facts.file_answers)
    assert (part.name, part.requests, part.models) == ("sums.jsonl", "20 questions", ("base", "tuned", "merged"))
    assert [row.label for row in part.rows] == ["Exact match", "Right number"]
    assert part.answers.counts == {"fixed": 2}
    (row,) = task_rows(facts.evaluation)
    assert (row.version, row.measure, row.base, row.difference) == ("1.0", "acc", "0.3200 \u00b1 0.13", "\u22120.0200")


def test_answers_of_files_are_not_those_of_the_held_out_split():
    assert facts_with().answers.total == 40
    lines = [{"file": "b", "base": "x", "tuned": "x"}, {"file": "a", "base": "x", "tuned": "y"}]
    assert {name: answers.counts for name, answers in collect_by_file(lines).items()} == {
        "b": {"unchanged": 1},
        "a": {"changed": 1},
    }


def test_leaks_are_shown_in_pairs_and_hostile_text_stays_text():
    page = render_run(facts_with())
    assert "Too similar" in page and "held-out record from line 40" in page
    assert "&lt;b&gt;5&lt;/b&gt;" in page and "<b>5</b>" not in page


def test_files_that_nobody_looked_for_in_the_training_data_are_a_warning():
    run = {"config": {"evaluate.files": {"value": ["e.jsonl"]}, "split.decontaminate": {"value": []}}}
    found = [finding.sentence for finding in findings(facts_with(run=run))]
    assert any("The training data were not searched for e.jsonl" in sentence for sentence in found)
    run["config"]["split.decontaminate"]["value"] = ["e.jsonl"]
    assert not any("not searched" in finding.sentence for finding in findings(facts_with(run=run)))
    checks = [finding.sentence for finding in findings(facts_with()) if finding.level == "check"]
    assert any(sentence.startswith("No prompt of the held-out data is in the training data. 12") for sentence in checks)


def test_speeds_have_units():
    timing = {"models": {"tuned": {"latency_median_s": 0.5, "latency_p95_s": 0.75, "latency_requests": 5,
                                   "tokens_per_second": 1234.5, "batch_size": 64}}}  # fmt: skip
    (row,) = speeds(facts_with(timing=timing).timing)
    assert (row.model, row.median, row.p95, row.tokens) == ("Base and adapter", "0.500 s", "0.750 s", "1,234")
    assert "Speed of the answers" in render_run(facts_with(timing=timing))
    assert speeds(None) == ()


def test_the_new_fact_files_are_optional():
    from report_case import fact_paths

    paths = {name: path for name, path in fact_paths().items() if name != "leaks"}
    assert load_facts(paths).leaks == () and load_facts(paths).timing is None
