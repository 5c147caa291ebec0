import pytest

from snaketune.report.run.answers import collect, kind_of_answer


def line(number, base, tuned, **more):
    given = {"record": number, "prompt": f"p{number}", "reference": "r", "base": "b", "tuned": "t"}
    return {**given, "base_match": base, "tuned_match": tuned, **more}


@pytest.mark.parametrize(
    ("base", "tuned", "kind"),
    [(True, False, "broken"), (False, False, "wrong"), (False, True, "fixed"), (True, True, "right")],
)
def test_kinds_of_scored_answers(base, tuned, kind):
    assert kind_of_answer(line(1, base, tuned)) == kind


def test_kinds_without_scores_or_without_a_base_model():
    assert kind_of_answer({"base": "x", "tuned": "y"}) == "changed"
    assert kind_of_answer({"base": "x", "tuned": "x"}) == "unchanged"
    assert kind_of_answer({"tuned": "y", "tuned_match": False}) == "tuned_wrong"


def test_the_one_wrong_answer_among_thousands_is_shown_first():
    lines = [line(n, False, n != 4321) for n in range(5000)]
    answers = collect(lines)
    assert answers.counts == {"fixed": 4999, "wrong": 1}
    assert answers.total == 5000
    assert len(answers.shown) == 12
    assert answers.shown[0].prompt.text == "p4321"


def test_a_mix_is_shown_when_there_are_many_of_each():
    lines = [line(n, bool(n & 1), bool(n & 2)) for n in range(400)]
    shown = collect(lines).shown
    assert [group[0] for group in collect(lines).groups] == ["broken", "wrong", "fixed", "right"]
    assert len(shown) == 12
    assert {kind: sum(answer.kind == kind for answer in shown) for kind in ("broken", "wrong", "fixed", "right")} == {
        "broken": 3,
        "wrong": 3,
        "fixed": 3,
        "right": 3,
    }


def test_the_merged_answer_is_shown_only_where_it_differs():
    same = collect([line(1, True, True, merged="t", merged_match=True)]).shown[0]
    other = collect([line(1, True, True, merged="u", merged_match=False)]).shown[0]
    assert [model for model, _, _ in same.answers] == ["base", "tuned"]
    assert other.answers[-1][0] == "merged"
    assert other.answers[-1][2] == "wrong"


def test_no_generations_are_no_answers():
    assert collect([]).total == 0
    assert collect([]).shown == ()


BEFORE, AFTER = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"


def prompts(*questions):
    return [line(n, False, True) | {"prompt": f"{BEFORE}{text}{AFTER}"} for n, text in enumerate(questions)]


def test_what_the_template_writes_around_every_question_is_shown_once():
    answers = collect(prompts("How many apples?", "How many\npears?"))
    assert (answers.frame.before, answers.frame.after) == (BEFORE, AFTER)
    assert [answer.prompt.text for answer in answers.shown] == ["How many apples?", "How many\npears?"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<s>[INST] ", " [/INST]"),
        ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),
        ("<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"),
        ("<|start|>user<|message|>", "<|end|><|start|>assistant"),
    ],
)
def test_control_tokens_beside_a_question_are_no_part_of_it(before, after):
    asked = ["Why is it so?", "What is it <b>now?", "\nShould they go?"]
    answers = collect([line(n, False, True) | {"prompt": before + text + after} for n, text in enumerate(asked)])
    assert [answer.prompt.text.strip() for answer in answers.shown] == [text.strip() for text in asked]


def test_a_line_that_one_prompt_has_otherwise_is_part_of_the_question():
    lines = [*prompts("a", "b"), line(7, False, True) | {"prompt": f"<|im_start|>user\nc{AFTER}"}]
    answers = collect(lines)
    assert (answers.frame.before, answers.frame.after) == ("", AFTER)
    assert BEFORE + "a" in [answer.prompt.text for answer in answers.shown]


@pytest.mark.parametrize("questions", [("a",), ("a", "a"), ("\n", ""), ("x\nx\n", "x\n")])
def test_no_question_is_left_out_with_its_frame(questions):
    answers = collect(prompts(*questions))
    frame = answers.frame
    shown = [frame.before + answer.prompt.text + frame.after for answer in answers.shown]
    assert shown == [given["prompt"] for given in prompts(*questions)]
