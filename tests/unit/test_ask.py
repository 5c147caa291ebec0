"""Asking base and tuned model: what is asked, how it is shown, and that both answer as evaluation has them."""

import io

import pytest
import torch
from tiny_run import conversations, write_run

from snaketune.ask.conversation import Conversation, Display, side_by_side, wrap
from snaketune.ask.request import AskRequest, read_request
from snaketune.core.errors import ConfigError, DataError
from snaketune.evaluate.models import ModelSettings
from snaketune.evaluate.talking import ModelPlaces, Talking


@pytest.mark.parametrize(
    ("given", "request_"),
    [
        ("no", AskRequest()),
        ("What is 2+2?", AskRequest(question="What is 2+2?")),
        (5, AskRequest(question="5")),
        ({"question": "why: now", "temperature": "0.7", "seed": 3}, AskRequest("why: now", temperature=0.7, seed=3)),
    ],
)
def test_a_question_settings_or_nothing(given, request_):
    assert read_request(given) == request_


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weather": "now"}, "'weather' is not a setting: use question, run"),
        ({"temperature": "hot"}, "ask.temperature is 'hot': give a number from 0.0 to 10.0"),
        ({"temperature": "nan"}, "ask.temperature is 'nan'"),
        ({"top_p": 0}, "ask.top_p is 0"),
        ({"max_new_tokens": 1.5}, "ask.max_new_tokens is 1.5"),
        ({"model": "base"}, "ask.model is 'base': use one of auto"),
        (["What", "is"], "in quotes"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        read_request(given)


def test_texts_stand_side_by_side_and_below_each_other_in_a_narrow_terminal():
    texts = ["a short one", "one that is long enough to need a second line\nand one of its own"]
    lines = side_by_side(["base", "tuned"], texts, 70)
    assert lines[0] == f"{'base':33} | tuned"
    assert [line.split(" | ")[-1].strip() for line in lines[2:]] == [
        "one that is long enough to need a",
        "second line",
        "and one of its own",
    ]
    assert max(map(len, lines)) <= 70
    assert side_by_side(["base", "tuned"], ["x", "y"], 30) == ["base:", "x", "tuned:", "y"]
    assert wrap("\x1b[2Jrm", 20) == [" [2Jrm"]  # a model cannot command the terminal


def test_a_terminal_is_redrawn_and_anything_else_gets_the_end_alone():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, draws in ((Terminal(), 3), (io.StringIO(), 1)):
        display = Display(["base", "tuned"], stream)
        display.show(["a", ""])
        display.show(["a", "b"])
        display.finish(["a", "b"])
        assert stream.getvalue().count("tuned") == draws
        assert stream.getvalue().count("\x1b[3A\x1b[J") == draws - 1


class Echo:
    names = ("base", "tuned")

    def __init__(self):
        self.asked = []

    def answer(self, chats, request, show):
        self.asked.append((chats, request))
        return [f"{name} {len(chat)}" for name, chat in zip(self.names, chats, strict=True)]


def test_each_model_remembers_its_own_answers_and_settings_change_on_the_way():
    models, noted, output = Echo(), [], io.StringIO()
    lines = "one\n/temperature 0.5\n/system Be brief.\ntwo\n/temperature cold\n/new\nthree\n/quit\nfour\n"
    Conversation(models, AskRequest(), noted.append, output).talk(io.StringIO(lines), False)
    (first, _), (second, changed), (third, _) = models.asked
    assert first == [[{"role": "user", "content": "one"}]] * 2
    assert [turn["content"] for turn in second[1]] == ["Be brief.", "one", "tuned 1", "two"]
    assert (changed.temperature, changed.system) == (0.5, "Be brief.")
    assert [turn["content"] for turn in third[0]] == ["Be brief.", "three"]
    assert "ask.temperature is 'cold'" in output.getvalue()
    assert noted[0].startswith("> one\nbase")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), conversations(6))


QUESTION = [{"role": "user", "content": "the lamp in the kitchen"}]


def plain_answer(run, adapter: bool) -> str:
    """What plain transformers and PEFT answer."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.model)
    model = AutoModelForCausalLM.from_pretrained(run.model)
    model = PeftModel.from_pretrained(model, run.adapter) if adapter else model
    text = (run.tokens / "chat_template.jinja").read_text()
    given = tokenizer.apply_chat_template(QUESTION, chat_template=text, add_generation_prompt=True, return_dict=True)
    ids = torch.tensor([given["input_ids"]])
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)


def test_both_answer_as_plain_transformers_do_and_in_turns(run):
    models = Talking(ModelPlaces(run.model, run.adapter, None, run.tokens), ModelSettings())
    seen = []
    answers = models.answer([QUESTION] * 2, AskRequest(max_new_tokens=12), lambda texts: seen.append(tuple(texts)))
    assert answers == [plain_answer(run, False), plain_answer(run, True)]
    assert answers[0] != answers[1]
    # Token by token, one after the other, while both have something to say.
    assert seen[0][1] == "" and seen[1][1] != "" and seen[-1] == tuple(answers)


def test_drawn_answers_repeat_with_their_seed_and_a_full_context_is_said(run):
    models = Talking(ModelPlaces(run.model, run.adapter, None, run.tokens), ModelSettings())
    drawn = [
        models.answer([QUESTION] * 2, AskRequest(temperature=1.5, seed=seed, max_new_tokens=12), lambda texts: None)
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    long = [{"role": "user", "content": "the lamp " * 400}]
    with pytest.raises(DataError, match="fills the model's context: type /new"):
        models.answer([long] * 2, AskRequest(), lambda texts: None)


def test_a_model_without_a_template_has_no_turns(run, tmp_path):
    (tmp_path / "chat_template.jinja").write_text("")
    with pytest.raises(ConfigError, match="without a chat template"):
        Talking(ModelPlaces(run.model, run.adapter, None, tmp_path), ModelSettings())
