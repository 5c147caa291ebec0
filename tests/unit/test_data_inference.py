"""Examples are what inference gives: the check against transformers, reasoning, what a template leaves out, places."""

import io
import json
import re

import numpy as np
import orjson
import pytest
from data_tokenizers import CHAT, QWEN, make_folder

from snaketune.core.errors import DataError
from snaketune.data.conversations import reasoning
from snaketune.data.templates.built_in_templates import BUILT_IN
from snaketune.data.templates.left_out import LeftOut, check_text_written
from snaketune.data.templates.role_tokens import foreign_tokens
from snaketune.data.templates.templates import ChatTemplate
from snaketune.data.templates.turns import AnswerPrompt, Turns
from snaketune.data.tokens.chunk_tokenizing import ChunkTokenizer, Recipe
from snaketune.data.tokens.chunks import chunks_of
from snaketune.data.tokens.encoding import EncodedRecord, Encoder
from snaketune.data.tokens.token_store import TokenStore
from snaketune.data.tokens.tokenizer import TextTokenizer
from snaketune.data.tokens.tokenizer_engine import TokenizersEngine
from snaketune.data.tokens.tokenizing import select_backend, tokenize_splits
from snaketune.data.tokens.tokenizing_account import warnings_of
from snaketune.evaluate.answers.questions import _said

OPENS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content.split('</think>')[-1] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)
ASK, AGAIN = CHAT[1], CHAT[3]
COHERE = ["<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"]
THINKING = "<|START_THINKING|>hm<|END_THINKING|>"
GEMMA = ["<|channel>", "<channel|>", "<turn|>"]
THOUGHT = [
    ASK,
    {"role": "assistant", "content": "Hello!", "reasoning_content": "one"},
    AGAIN,
    {"role": "assistant", "content": "See you.", "reasoning_content": "two"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("model") / "model")


def write(tmp_path, *records):
    path = tmp_path / "train.jsonl"
    lines = [orjson.dumps({"source": 0, "line": n + 40, **record}) + b"\n" for n, record in enumerate(records, 1)]
    path.write_bytes(b"".join(lines))
    return path


def run(tmp_path, folder, source, *records, **settings):
    recipe = Recipe(str(folder), source, True, sources=("data/mine.csv",), **settings)
    dropped = io.BytesIO()
    file = write(tmp_path, *records)
    facts = tokenize_splits({"train": (str(file), str(tmp_path / "out"))}, recipe, dropped, 1)
    store, tokenizer = TokenStore(tmp_path / "out"), TextTokenizer(folder)
    texts = []
    for index in range(len(store)):
        ids, mask = store.document(index)
        texts.append((tokenizer.decode(ids[mask == 0].tolist()), tokenizer.decode(ids[mask == 1].tolist())))
    return facts, texts, [json.loads(line) for line in dropped.getvalue().splitlines()]


def test_reasoning_is_placed_behind_a_prompt_that_opens_it(tmp_path, folder):
    facts, texts, _ = run(tmp_path, folder, OPENS, {"messages": THOUGHT})
    assert [trained for _, trained in texts] == [
        "one\n</think>\n\nHello!<|im_end|>",
        "two\n</think>\n\nSee you.<|im_end|>",
    ]
    assert all(before.rstrip().endswith("<|im_start|>assistant\n<think>") for before, _ in texts)
    assert "one" not in texts[1][0]
    split = facts["splits"]["train"]
    assert (split["records"], split["records_in_several_examples"], split["examples_of_these"]) == (1, 1, 2)
    assert "1 train records became 2 examples" in " ".join(warnings_of(facts))


@pytest.mark.parametrize(
    ("setting", "kept", "lost"), [("auto", 2, 2), ("train", 1, 0), ("drop", 2, 0)], ids=lambda value: str(value)
)
def test_reasoning_that_the_template_leaves_out_is_counted_or_refused(tmp_path, folder, setting, kept, lost):
    records = [{"messages": THOUGHT}, {"messages": CHAT}]
    facts, texts, dropped = run(tmp_path, folder, QWEN, *records, reasoning=setting)
    split = facts["splits"]["train"]
    assert (split["records"], split["answers_without_their_reasoning"]) == (kept, lost)
    assert ("leaves out the reasoning of 2" in " ".join(warnings_of(facts))) == (lost == 2)
    assert [entry["reason"] for entry in dropped] == (["reasoning_left_out"] if setting == "train" else [])
    assert all("one" not in text for pair in texts for text in pair)


def test_marked_reasoning_is_dropped_from_contents():
    message = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello!"}
    assert reasoning.reasoning_for_template([message], QWEN, reasoning.DROP_REASONING) == [
        {"role": "assistant", "content": "Hello!"}
    ]
    assert reasoning.reasoning_for_template([message], QWEN, reasoning.AS_TEMPLATE) == [message]
    [read] = reasoning.reasoning_for_template([message], "{{ m.reasoning_content }}", reasoning.AS_TEMPLATE)
    assert (read["content"], read["reasoning_content"], read["thinking"]) == ("Hello!", "hm", "hm")


def test_scores_are_those_of_what_follows_the_reasoning():
    assert _said("hm </think>\n\n42", "42") == "42"
    assert _said("42", "42") == "42"
    assert _said("a</think>b", "c</think>d") == "a</think>b"


@pytest.mark.parametrize(
    ("written", "special", "text", "scored"),
    [
        (
            "<|channel|>analysis<|message|>Two and two.<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",
            ["<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|return|>"],
            "<|channel|>analysis<|message|>Two and two.assistant<|channel|>final<|message|>4",
            "4",
        ),
        ("<|channel|>final<|message|>4<|return|>", ["<|channel|>", "<|message|>", "<|return|>"], "4", "4"),
        ("<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>4<|END_RESPONSE|>", COHERE, THINKING + "4", "4"),
        ("<|channel>thought\nhm<channel|>4<turn|>", GEMMA, "<|channel>thought\nhm<channel|>4", "4"),
        ("<think>\nhm\n</think>\n\n4<|im_end|>", ["<|im_end|>"], None, None),
        (
            "<think>\nhm\n</think>\n\n4<|im_end|>",
            ["<think>", "</think>", "<|im_end|>"],
            "<think>\nhm\n</think>\n\n4",
            "4",
        ),
    ],
)
def test_reasoning_that_special_tokens_mark_is_told_from_what_is_scored(written, special, text, scored):
    assert reasoning.readable_answer(written, special) == text
    assert text is None or _said(text, "4") == scored


def test_an_example_that_inference_would_not_give_is_refused_with_the_users_line(tmp_path, folder, monkeypatch):
    file = write(tmp_path, {"messages": CHAT})
    recipe = Recipe(str(folder), BUILT_IN["chatml"], True, sources=("data/mine.csv",))
    select_backend(recipe, [file], 1)
    render = ChatTemplate.render
    monkeypatch.setattr(ChatTemplate, "render", lambda self, *given: render(self, *given).replace("Hi", "Ho"))
    monkeypatch.setattr("snaketune.data.templates.examples.check_text_written", lambda *_: None)
    with pytest.raises(DataError, match=r"data/mine\.csv line 41: training starts after .* not a prompt"):
        select_backend(recipe, [file], 1)


def test_nothing_left_to_train_on_names_the_users_line(tmp_path, folder):
    source = "{{ raise_exception('only parrots') }}"
    with pytest.raises(DataError, match=r"first data/mine\.csv line 41: .*only parrots"):
        run(tmp_path, folder, source, {"messages": CHAT})


@pytest.mark.parametrize(
    ("messages", "tools", "text", "what"),
    [
        (CHAT, None, "Be brief. Hi there Bye See you.", "an answer's text"),
        (CHAT, None, "Hi there Hello! Bye See you.", "the system message"),
        ([{"role": "tool", "content": "two words"}], None, "two", "a tool's result"),
        ([ASK], [{"function": {"name": "add"}}], "Hi there", "the offered tools"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"k": ["v"]}}}]}],
            None,
            "f k",
            "argument",
        ),
    ],
)
def test_what_a_template_leaves_out_is_named(messages, tools, text, what):
    with pytest.raises(LeftOut, match=what):
        check_text_written(messages, text, {}, tools)


def test_what_a_template_quotes_or_trims_is_not_left_out():
    quoted = json.dumps('a "quoted"\n line')
    check_text_written([{"role": "tool", "content": 'a "quoted"\n line'}], quoted, {}, None)
    check_text_written([{"role": "assistant", "content": "<think>x</think>\n\nyes"}], "yes", {}, None)


def test_an_answer_that_joins_its_prompt_is_cut_where_inference_cuts(folder):
    tokenizer = TextTokenizer(folder)
    encoder = Encoder(tokenizer, TokenizersEngine(tokenizer))
    prompt, answer = "<|im_start|>assistant\n", "\n\nLines\n<|im_end|>"
    two = prompt + answer + "\n" + prompt
    spans = [(len(prompt), len(prompt + answer)), (len(two), len(two + answer))]
    document = EncodedRecord(0, 0, 1, two + answer, spans, 4, False, 2, 0, (2, 2))
    parts = encoder.separate([document])
    assert [part.text for part in parts] == [prompt + answer, two + answer]
    for part, (ids, mask) in zip(parts, encoder.encode(parts), strict=True):
        start = int(np.argmax(mask))
        [before] = tokenizer.encode_batch([part.text[: part.spans[0][0]]], False)
        assert ids[:start].tolist() == before.ids
        assert tokenizer.decode(ids[mask == 1].tolist()) == answer


def test_reasoning_in_marks_that_the_template_does_not_know_is_split_from_its_content():
    message = {"role": "assistant", "content": "<think>hm</think>Hello!"}
    for source in ("{{ m.thinking }}<|END_THINKING|>", "{{ m.thinking }}{# </think> #}"):
        [read] = reasoning.reasoning_for_template([message], source, reasoning.AS_TEMPLATE)
        assert (read["content"], read["thinking"]) == ("Hello!", "hm")
    for source in ("{# reads reasoning_content #}{{ m.content }}", "{{ m.thinking }}</think>"):
        assert reasoning.reasoning_for_template([message], source, reasoning.AS_TEMPLATE) == [message]


def test_a_prompt_that_is_other_tokens_alone_is_cut_where_inference_cuts(tmp_path):
    # Of "\n\nx" this pre-tokeniser makes two tokens of line ends, of "\n\n" at the end one.
    folder = make_folder(tmp_path / "model", pattern=r"\s+(?!\S)|\s|[^\s]+")
    tokenizer = TextTokenizer(folder)
    encoder = Encoder(tokenizer, TokenizersEngine(tokenizer))
    prompt, answer = "<|im_start|>assistant\n\n", "x<|im_end|>"
    [(ids, mask)] = encoder.encode(
        [EncodedRecord(0, 0, 1, prompt + answer, [(len(prompt), len(prompt + answer))], 1, False, 1)]
    )
    [alone] = tokenizer.encode_batch([prompt], False)
    assert ids[mask == 0].tolist() == alone.ids
    assert tokenizer.decode(ids[mask == 1].tolist()) == answer


def test_counts_of_a_record_stay_when_its_answers_are_parted():
    document = EncodedRecord(0, 0, 1, "abcdef", [(1, 2), (4, 5)], 2, False, 2, 1, (1, 1), ("ended",))
    assert [(part.lost, part.notes) for part in map(document.alone, range(2))] == [(1, ("ended",)), (0, ())]


MARKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}BLOCK{% else %}"
    "{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("block", "trained", "said"),
    [
        (
            "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}",
            ["Hello!<|im_end|>See you.<|im_end|>"],
            "",
        ),
        (
            "{% if loop.last %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}"
            "{{ m.content + '<|im_end|>' }}{% endif %}",
            ["See you.<|im_end|>"],
            "1 train answers are not trained",
        ),
        (
            "{{ 'Well: ' }}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}",
            ["Hello!<|im_end|>See you.<|im_end|>"],
            "2 train answers are trained only from the start",
        ),
        (
            "{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>' }}",
            ["Hello!<|im_end|>See you.<|im_end|>"],
            "differ from the trained tokens in 1 of 1",
        ),
    ],
    ids=["exact", "the last answer alone", "later", "no end"],
)
def test_generation_blocks_narrow_what_is_trained_and_never_widen_it(tmp_path, folder, block, trained, said):
    facts, texts, _ = run(tmp_path, folder, MARKING.replace("BLOCK", block), {"messages": CHAT[1:]})
    assert [answer for _, answer in texts] == trained
    assert said in " ".join(warnings_of(facts))


HEADER = "<|im_start|>assistant\n"
CHANNELS = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.thinking %}<|channel|>{{ m.thinking }}<|end|><|start|>"
    "{% endif %}<|message|>{{ m.content }}<|return|>{% endfor %}{% if add_generation_prompt %}<|start|>{% endif %}"
)
BY_ROLE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda turn: AnswerPrompt(turn.prompt.removesuffix(HEADER), HEADER + turn.answer), "of another role's turn"),
        (
            lambda turn: AnswerPrompt(turn.prompt, turn.answer + "\n<|im_start|>user\n"),
            "at which generation does not stop",
        ),
        (
            lambda turn: AnswerPrompt(turn.prompt, turn.answer + "\n<|im_start|>user\n<|im_end|>"),
            "2 ends of turns are trained",
        ),
        (
            lambda turn: AnswerPrompt(turn.prompt, turn.answer.removesuffix("<|im_end|>")),
            "at which generation does not stop",
        ),
        (lambda turn: AnswerPrompt(turn.prompt, "<|im_start|>" + turn.answer), "of another role's turn"),
    ],
    ids=["header", "next header", "next turn", "no end", "another role's token"],
)
def test_a_broken_mask_is_caught_by_the_audit_of_every_row(tmp_path, folder, monkeypatch, broken, said):
    whole = Turns.turn
    monkeypatch.setattr(Turns, "turn", lambda self, *given: broken(whole(self, *given)))
    [chunk] = chunks_of(write(tmp_path, {"messages": CHAT[:3]}))
    recipe = Recipe(str(folder), QWEN, True, sources=("data/mine.csv",))
    with pytest.raises(DataError, match=rf"data/mine\.csv line 41: .*{said}"):
        ChunkTokenizer(recipe, "train")(chunk)


def test_a_header_of_mere_text_in_the_mask_is_caught_by_the_check_against_transformers(tmp_path, folder, monkeypatch):
    whole = Turns.turn

    def broken(self, *given):
        turn = whole(self, *given)
        return AnswerPrompt(turn.prompt.removesuffix("### Assistant:\n"), "### Assistant:\n" + turn.answer)

    monkeypatch.setattr(Turns, "turn", broken)
    recipe = Recipe(
        str(folder), BUILT_IN["plain"].replace("{% generation %}", "").replace("{% endgeneration %}", ""), True
    )
    with pytest.raises(DataError, match="which is not a prompt that transformers gives"):
        select_backend(recipe, [write(tmp_path, {"messages": CHAT[:3]})], 1)


@pytest.mark.parametrize(
    ("source", "stops", "foreign"),
    [
        (QWEN, ["<|im_end|>"], {"<|im_start|>"}),
        (CHANNELS, ["<|return|>"], set()),
        ("Use <|tool|>." + BY_ROLE, ["<|end|>"], {"<|user|>", "<|assistant|>"}),
    ],
    ids=["header", "a header that an answer has again", "a mark that the text before all turns mentions"],
)
def test_foreign_tokens_are_those_of_headers_and_of_others(source, stops, foreign):
    template = ChatTemplate(source, {"eos_token": "x"})
    control = re.compile(r"<\|\w+\|>")
    assert foreign_tokens(template.render, control, stops) == foreign
