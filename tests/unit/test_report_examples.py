"""Training examples in the report."""

from report_case import facts_with

from snaketune.report.run.example_texts import examples


def test_of_a_pair_both_answers_are_shown():
    token = {"text": "ab", "trained": True, "tokens": 1}
    pair = {"record": 4, "tokens": [token], "rejected": [token, {**token, "trained": False}]}
    shown = examples(facts_with(tokens={"examples": [pair, {"record": 5, "tokens": [token]}]}))
    assert [example.summary for example in shown] == [
        "Line 5 of train.jsonl, the chosen answer: 2 of 2 characters trained",
        "Line 5 of train.jsonl, the rejected answer: 2 of 4 characters trained",
        "Line 6 of train.jsonl: 2 of 2 characters trained",
    ]
    assert [len(example.stretches) for example in shown] == [1, 2, 1]
