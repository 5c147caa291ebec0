"""The kept checkpoint and an early stop in the report: in the curve, its caption and the table of facts."""

import pytest
from report_case import facts_with

from snaketune.report.charts.loss_charts import loss_chart
from snaketune.report.run.findings import findings
from snaketune.report.run.table import fact_table

BEST = {"metric": "eval_loss", "value": 0.21, "step": 100, "kept_step": 100, "stopped_early": False}


def with_best(**changes):
    return facts_with(adapter={**facts_with().adapter, "best": {**BEST, **changes}})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "The weights of step 100 were kept: the best held-out loss (0.210)."),
        ({"stopped_early": True}, "Training stopped early after step"),
        ({"kept_step": 250}, "The last weights were kept; the best held-out loss (0.210) was that of step 100."),
    ],
)
def test_the_caption_says_which_weights_were_kept_and_the_curve_marks_them(changes, words):
    chart = loss_chart(with_best(**changes))
    assert words in chart.caption
    assert (chart.plot.limit.at, chart.plot.limit.words) == ({**BEST, **changes}["kept_step"], "kept")


def test_nothing_is_said_where_nothing_was_asked():
    chart = loss_chart(facts_with())
    assert "kept" not in chart.caption and chart.plot.limit is None
    assert not [
        row for row in fact_table(facts_with()) if row["name"].startswith(("training.kept", "training.stopped"))
    ]
    found = {row["name"]: row["value"] for row in fact_table(with_best())}
    assert (found["training.kept_step"], found["training.stopped_early"]) == (100, False)


def test_a_loss_that_rose_after_the_kept_checkpoint_is_no_warning():
    curves = dict(facts_with().curves)
    curves["eval_loss"] = type(curves["loss"])(((50, 0.5), (100, 0.2), (150, 0.4)))
    for adapter, is_warned in ((facts_with().adapter, True), (with_best().adapter, False)):
        sentences = [finding.sentence for finding in findings(facts_with(curves=curves, adapter=adapter))]
        assert any("train.load_best_model_at_end" in sentence for sentence in sentences) is is_warned
