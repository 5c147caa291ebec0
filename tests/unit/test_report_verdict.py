import pytest
from report_case import evaluation_of, facts_with

from snaketune.report.filling import style_sheet
from snaketune.report.run.answers import ShownAnswers
from snaketune.report.run.evaluation_table import metric_rows
from snaketune.report.run.judging import judge
from snaketune.report.run.verdict import HEADLINES, verdict
from snaketune.report.significance import interval, sign_test


def measured(loss, match=None, n=200, generated=200):
    found = {"loss": loss, "n": n}
    return found if match is None else {**found, "exact_match": match, "n_generated": generated}


def judged(base, tuned, counts=None, **changes):
    evaluation = {name: found for name, found in (("base", base), ("tuned", tuned)) if found is not None}
    return verdict(facts_with(evaluation=evaluation, answers=ShownAnswers(counts or {}), **changes))


def test_better_says_what_rose_and_what_fell():
    found = judged(measured(1.523, 0.0), measured(0.0112, 0.99), {"fixed": 198, "wrong": 2})
    assert found.outcome == "better"
    assert found.sentence == (
        "Trained 250 steps on a training set of 163,538 tokens; exact match on 200 held-out requests rose from 0.0% to"
        " 99.0%; held-out loss 1.52 \u2192 0.0112; merged model equals adapter."
    )


def test_worse_is_said_plainly():
    found = judged(measured(1.1, 0.6), measured(1.9, 0.2), {"broken": 90, "fixed": 10, "wrong": 70, "right": 30})
    assert found.outcome == "worse"
    assert found.headline == "Tuning made the model worse on the held-out data"
    assert "fell from 60.0% to 20.0%" in found.sentence


def test_lower_loss_but_worse_answers_is_mixed():
    found = judged(measured(1.1, 0.6), measured(0.9, 0.2), {"broken": 90, "fixed": 10, "wrong": 70, "right": 30})
    assert found.outcome == "mixed"


def test_a_small_change_of_exact_match_is_called_chance():
    found = judged(measured(1.1, 0.5), measured(1.1, 0.51), {"broken": 10, "fixed": 12, "wrong": 88, "right": 90})
    assert found.outcome == "same"
    assert "rose from 50.0% to 51.0%, which may be chance" in found.sentence


LOSS_FELL = {"loss": {"difference": -0.014, "low": -0.02, "high": -0.008}}


def moved_by(loss, answers, cut=0, moves=LOSS_FELL, counts=None, **more):
    """The verdict on a loss and a fraction of right answers, each before and after, of 40 requests."""
    base, tuned = (measured(*both, n=200, generated=40) for both in zip(loss, answers, strict=True))
    evaluation = {"base": base, "tuned": tuned | {"n_cut": cut}, "differences": {"tuned_minus_base": moves}, **more}
    return verdict(facts_with(evaluation=evaluation, answers=ShownAnswers(counts or {})))


def test_a_lower_loss_without_a_right_answer_is_no_success():
    found = moved_by((1.523, 1.509), (0.0, 0.0), cut=40, counts={"wrong": 40})
    assert found.outcome == "cut"
    assert "40 of 40 answers were cut off at max_new_tokens" in found.sentence
    assert "held-out loss 1.52 \u2192 1.51, 0.9% lower" in found.sentence
    found = moved_by((1.523, 1.1), (0.0, 0.0), counts={"wrong": 40})
    assert (found.outcome, found.headline) == ("loss_only", "The held-out loss fell, but no answer became right")


@pytest.mark.parametrize(
    ("answers", "counts", "outcome"),
    [
        ((0.5, 0.475), {"right": 18, "broken": 2, "fixed": 1, "wrong": 19}, "fewer"),
        ((0.5, 0.5), {"right": 19, "broken": 1, "fixed": 1, "wrong": 19}, "better"),
        ((1.0, 1.0), {"right": 40}, "better"),
        ((0.0, 0.025), {"fixed": 1, "wrong": 39}, "better"),
    ],
)
def test_beside_a_clearly_lower_loss_no_answer_may_be_lost(answers, counts, outcome):
    assert moved_by((1.5, 1.1), answers, counts=counts).outcome == outcome


def test_any_score_of_answers_that_fell_beyond_chance_stands_against_a_lower_loss():
    lower = {"difference": -0.2, "low": -0.3, "high": -0.1}
    right = {"fixed": 20, "wrong": 20}
    found = moved_by((1.5, 1.1), (0.0, 0.5), moves=LOSS_FELL | {"json_valid": lower}, counts=right)
    assert found.outcome == "mixed" and "Valid JSON fell by 20.0 points" in found.sentence
    file = {"tuned": {"n_generated": 50}, "differences": {"tuned_minus_base": {"numeric_match": lower}}}
    found = moved_by((1.5, 1.1), (0.0, 0.5), counts=right, files={"sums.jsonl": file})
    assert found.outcome == "mixed" and "Right number on sums.jsonl fell by 20.0 points" in found.sentence
    assert moved_by((1.5, 1.1), (0.0, 0.5), counts=right).outcome == "better"


def test_every_outcome_has_a_headline_and_only_success_is_green():
    style = style_sheet()
    green = style[style.index(".band.better") :].splitlines()[0]
    assert "--better" in green
    amber = next(line for line in style.splitlines() if line.startswith(".band.mixed"))
    for outcome in set(HEADLINES) - {"better", "worse", "unknown"}:
        assert f".band.{outcome}" in amber


def test_what_differs_in_no_shown_digit_is_equal_in_the_table():
    (row,) = metric_rows(
        evaluation_of({"base": {"loss": 2.0}, "tuned": {"loss": 1.2345678}, "merged": {"loss": 1.2345678 + 5.87e-9}})
    )
    assert row.merging.text == "equal"
    (row,) = metric_rows(evaluation_of({"base": {"loss": 2.0}, "tuned": {"loss": 1.2345}, "merged": {"loss": 1.2365}}))
    assert row.merging.text == "+0.00200"


def test_without_generations_exact_match_is_unknown_and_loss_decides():
    found = judged(measured(1.1), measured(0.9))
    assert found.outcome == "unsure", "without an interval nothing says whether that is chance"
    assert "no answers were generated, so exact match is unknown" in found.sentence
    assert found.figures[0].value == "not measured"


def test_without_a_merged_model_none_is_claimed():
    sentence = judged(measured(1.1), measured(0.9), merged=None).sentence
    assert sentence.endswith("no merged model was made.")
    assert "equal" not in sentence


@pytest.mark.parametrize(
    ("merged", "words"),
    [
        ({}, "the merged model was not checked"),
        ({"check": {"verdict": "different"}}, "merged model does not equal adapter"),
    ],
)
def test_a_merge_without_proof_is_not_called_equal(merged, words):
    assert judged(measured(1.1), measured(0.9), merged=merged).sentence.endswith(f"{words}.")


def test_a_handful_of_held_out_records_decides_nothing():
    found = judged(measured(1.5, 0.0, n=4, generated=4), measured(0.1, 1.0, n=4, generated=4), {"fixed": 4})
    assert found.outcome == "few"
    assert found.headline.startswith("Too little held-out data")


def test_without_a_base_model_nothing_is_compared():
    found = judged(None, measured(0.9, 0.5))
    assert found.outcome == "unknown"
    assert "that of the base model is unknown" in found.sentence


def test_no_evaluation_at_all():
    found = judged(None, None)
    assert found.outcome == "unknown"
    assert "held-out loss was not measured" in found.sentence


def test_unpaired_answers_need_intervals_that_do_not_overlap():
    facts = facts_with(answers=ShownAnswers())
    near = {"base": {"exact_match": 0.50, "n_generated": 100}, "tuned": {"exact_match": 0.60, "n_generated": 100}}
    far = {"base": {"exact_match": 0.10, "n_generated": 100}, "tuned": {"exact_match": 0.60, "n_generated": 100}}
    assert judge(evaluation_of(near), facts.answers) == "same"
    assert judge(evaluation_of(far), facts.answers) == "better"


def test_sign_test_and_interval_have_known_values():
    assert sign_test(0, 0) == 1
    assert sign_test(5, 5) == 1
    assert sign_test(10, 0) == pytest.approx(2 / 1024)
    assert sign_test(3, 9) == sign_test(9, 3) == pytest.approx(0.1460, abs=5e-4)
    assert interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=5e-4)
    assert interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=5e-4)


def test_table_says_better_by_the_direction_of_each_metric_and_keeps_unknown_ones():
    rows = {
        row.label: row
        for row in metric_rows(
            evaluation_of({"base": {"loss": 1.0, "judge.v2": 3}, "tuned": {"loss": 2.0, "judge.v2": 4}})
        )
    }
    assert rows["Loss"].tuning.note == "worse"
    assert rows["judge.v2"].tuning.text == "+1.00"
    assert rows["judge.v2"].tuning.note == ""
    assert rows["Loss"].merged.text == "not measured"


def preferring(pairs, before, after, gained, loss=(1.0, 1.4)):
    base = {"loss": loss[0], "n": pairs, "preference_accuracy": before}
    return judged(base, {"loss": loss[1], "n": pairs, "preference_accuracy": after, "reward_accuracy": gained})


def test_preferences_are_judged_by_what_the_chosen_answers_gained():
    found = preferring(200, 0.5, 0.7, 0.81)
    assert found.outcome == "better", "that the chosen answers' loss rose is no reason against it"
    assert (
        "the chosen answer gained on the rejected one in 81.0% of 200 held-out pairs; it is the more likely one in "
        "70.0%, before in 50.0%;"
    ) in found.sentence
    assert "loss of the chosen answers 1.00 \u2192 1.40" in found.sentence
    assert found.figures[1].label == "Preference accuracy"
    assert found.figures[1].value == "50.0% \u2192 70.0%"
    assert preferring(200, 0.7, 0.5, 0.19).outcome == "worse"


def test_half_of_the_pairs_may_be_chance():
    found = preferring(40, 0.5, 0.55, 0.6)
    assert found.outcome == "same"
    assert "in 60.0% of 40 held-out pairs, which may be chance;" in found.sentence
    assert preferring(12, 0.1, 1.0, 1.0).outcome == "few"


def test_labelled_answers_are_judged_by_those_that_were_matched():
    tuned = {"loss": 0.5, "n": 150, "n_matched": 60, "reward_accuracy": 0.8}
    found = judged({"loss": 1.0, "n": 150}, tuned)
    assert "a good answer gained on a bad one in 80.0% of 60 held-out comparisons" in found.sentence
    assert "may be chance" in judged({"loss": 1.0, "n": 150}, tuned | {"reward_accuracy": 0.55}).sentence


def test_of_several_adapters_the_combination_is_what_was_merged():
    merged = {"check": {"verdict": "equal"}}
    merged["combination"] = {"adapters": [{"run": name, "weight": 1.0, "digest": "0"} for name in ("one", "two")]}
    sentence = judged(measured(1.1), measured(0.9), merged=merged).sentence
    assert sentence.endswith("merged model equals the combination of 2 adapters.")
