"""What report and card say of a merge: right, right but rounded, and missing."""

import pytest
from report_case import facts_with, replaced

from snaketune.report.run.findings import findings
from snaketune.report.run.merge_findings import merge_check
from snaketune.report.run.page import render_run
from snaketune.report.run.table import fact_table
from snaketune.report.run.verdict import merge_part, verdict

REASON = "The merged model does not match the tuned one: logits_error 0.3 (limit 0.005); set <merge.enabled> to false."
REFUSED = {"files": {}, "refused": {"error": "TrainingError", "reason": REASON, "is_final": True}}


def rounded():
    merged = facts_with().merged
    check = merged["check"] | {
        "verdict": "rounded",
        "adapter_loss": 0.8575,
        "merged_loss": 0.9651,
        "loss_change": 0.1076,
        "loss_change_interval": [0.08, 0.13],
        "mean_kl": 1.8e-2,
        "change_kept": 0.77,
        "moved": 26,
        "weights": 100,
    }
    merged = merged | {"check": check, "dtype": "bfloat16", "rounding": "nearest"}
    evaluation = facts_with().evaluation | {"changed_answers": {"changed": 3, "n": 43}}
    return facts_with(merged=merged, evaluation=evaluation)


def text_of(facts):
    return render_run(facts)


@pytest.mark.parametrize("reason", [REASON, "<img onerror=alert(1)>"])
def test_a_missing_merged_model_is_told_with_its_reason(reason):
    facts = facts_with(merged=REFUSED | {"refused": {"reason": reason}})
    assert merge_check(facts).refusal == reason
    warnings = [one.sentence for one in findings(facts) if one.level == "warning"]
    assert f"There is no merged model. {reason}" in warnings
    assert "the merged model is missing" in verdict(facts).sentence
    page = text_of(facts)
    assert "There is no merged model." in page and "Verdict of the check" not in page
    assert "<img onerror" not in page
    assert any(row["name"] == "merge.refused" and row["value"] == reason for row in fact_table(facts))


def test_a_right_sum_whose_format_costs_something_is_amber_with_the_choice():
    facts = rounded()
    told = [one.sentence for one in findings(facts) if one.level == "warning" and "merged model" in one.sentence]
    assert len(told) == 1
    assert (
        "storing it as bfloat16 costs: loss 0.858 \u2192 0.965, KL divergence 0.0180 nats; set merge.rounding"
        in told[0]
    )
    assert "to lose nothing, set merge.dtype to float32 or serve the adapter" in told[0]
    drawn = replaced(facts, merged=facts.merged | {"rounding": "stochastic"})
    assert merge_check(drawn).choice.startswith("to lose nothing, set merge.dtype")
    assert merge_part(facts) == "merged model equals adapter up to rounding"
    rows = dict(merge_check(facts).rows)
    assert rows["Fraction of the change kept in the stored weights"] == "77.0%"
    assert rows["Values in the trained weights that changed"] == "26.0% of 100"
    assert any("(0.0800 to 0.130)" in value for value in rows.values())
    assert rows["Generated answers that differ in the merged model"] == "3 of 43"
    page = text_of(facts)
    assert "rounded to nearest" in page and "notable cost" in page


def test_an_equal_merge_is_a_check_that_passed():
    facts = facts_with()
    assert not [one for one in findings(facts) if one.level == "warning" and "merged" in one.sentence]
    assert "worth a look" not in text_of(facts)


def test_facts_of_earlier_merges_are_read_as_well():
    merged = facts_with().merged
    check = {name: merged["check"][name] for name in ("mean_kl", "adapter_loss", "merged_loss", "verdict")}
    old = facts_with(merged={"check": check, "dtype": "float32"})
    assert len(merge_check(old).rows) == 3 and merge_check(old).rounding == ""
    assert "Checked" in text_of(old)
