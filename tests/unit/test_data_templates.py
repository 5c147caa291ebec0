"""Chat templates: what they render and which characters of it the assistant speaks."""

import re

import pytest
from data_tokenizers import CHAT, CHATS, LLAMA3, PREFIXED, QWEN, THINKING, TRIMMING
from hypothesis import given, settings
from hypothesis import strategies as st

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.templates.built_in_templates import BUILT_IN, choose_template
from snaketune.data.templates.examples import ExampleFinder
from snaketune.data.templates.templates import ChatTemplate
from snaketune.data.tokens.tokenizer import own_chat_template

TOKENS = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}
CONTROL = re.compile(r"<\|[a-z_]+\|>")


def unmarked(source):
    return re.sub(r"{% (end)?generation %}", "", source)


def examples(source, messages, control=CONTROL, stops=("<|eos|>",), tools=None):
    return ExampleFinder(ChatTemplate(source, TOKENS), control, stops).find(messages, tools)


def spoken(source, messages, control=CONTROL, **more):
    found = examples(source, messages, control, **more)
    return [example.text[start:end] for example in found for start, end in example.spans]


@pytest.mark.parametrize("name", BUILT_IN)
def test_spans_are_found_without_markers(name):
    for chat in CHATS:
        assert spoken(unmarked(BUILT_IN[name]), chat) == spoken(BUILT_IN[name], chat)


@pytest.mark.parametrize(
    ("source", "end"),
    [(QWEN, "<|im_end|>"), (LLAMA3, "<|im_end|>"), (unmarked(TRIMMING), "<|eos|>"), (PREFIXED, "<|eos|>")],
)
def test_an_answer_is_its_content_and_the_end_of_turn(source, end):
    for chat in CHATS:
        contents = [message["content"] for message in chat if message["role"] == "assistant"]
        found = [text.removesuffix(end) for text in spoken(source, chat) if text.endswith(end)]
        assert [text.strip() for text in found] == [content.strip() for content in contents]


def test_no_more_is_rendered_than_once_for_each_record(monkeypatch):
    finder = ExampleFinder(ChatTemplate(QWEN, TOKENS), CONTROL, ("<|eos|>",))
    finder.find(CHAT)
    calls = []
    render = ChatTemplate.render
    monkeypatch.setattr(ChatTemplate, "render", lambda self, *given: calls.append(1) or render(self, *given))
    for number in range(5):
        chat = [{**message, "content": f"{message['content']} {number}"} for message in CHAT]
        [example] = finder.find(chat)
        assert example.text.count(f" {number}<") == len(CHAT)
    assert len(calls) == 5


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=8))
def test_no_content_leads_the_search_astray(texts):
    roles = ["user", "assistant"] * 4
    chat = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    assert spoken(unmarked(BUILT_IN["chatml"]), chat) == spoken(BUILT_IN["chatml"], chat)
    assert spoken(unmarked(BUILT_IN["plain"]), chat) == spoken(BUILT_IN["plain"], chat)


def test_answers_whose_thoughts_the_template_drops_later_have_examples_of_their_own():
    chat = [*CHAT[1:3], *CHAT[3:]]
    chat[1] = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello!"}
    chat[3] = {"role": "assistant", "content": "<think>\nwell\n</think>\n\nSee you."}
    assert spoken(THINKING, chat) == [
        "<think>\nhm\n</think>\n\nHello!<|im_end|>",
        "<think>\nwell\n</think>\n\nSee you.<|im_end|>",
    ]
    first, second = examples(THINKING, chat)
    assert "hm" not in second.text and "Hello!" in second.text and "See you." not in first.text


def test_what_the_template_puts_before_the_content_is_the_models_part():
    assert spoken(THINKING, CHAT[:3]) == ["<think>\n\n</think>\n\nHello!<|im_end|>"]


def test_a_header_that_inference_would_not_give_is_refused_by_name():
    source = "{% for m in messages %}{{ m.role + ': ' + m.content + '<|eos|>\n' }}{% endfor %}"
    with pytest.raises(DataError, match=r"writes 'assistant:' before an answer but has no generation prompt"):
        spoken(source, CHAT)


def test_messages_with_more_than_a_content_are_found_as_well():
    source = unmarked(BUILT_IN["chatml"]).replace("+ '<|im_end|>\\n'", "+ (message.name or '') + '<|im_end|>\\n'")
    chat = [{**message, "name": " of Ann"} if message["role"] == "user" else message for message in CHAT]
    assert spoken(source, chat) == ["Hello!<|im_end|>", "See you.<|im_end|>"]


def test_a_template_that_rewrites_earlier_turns_is_refused():
    source = "{% for m in messages %}{{ messages|length }}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match="the inference prompt ends with"):
        spoken(source + "{{ '<|eos|>' }}", [{**m, "name": "x"} for m in CHAT])


def test_a_template_cannot_reach_the_interpreter_nor_the_clock():
    with pytest.raises(DataError):
        ChatTemplate("{{ ''.__class__.__mro__ }}{{ messages.__class__.__subclasses__() }}", {}).render(CHAT)
    assert ChatTemplate("{{ strftime_now('%d %B %Y') }}", {}, "2025-02-03").render(CHAT) == "03 February 2025"
    with pytest.raises(DataError):
        ChatTemplate("{{ strftime_now.__globals__ }}{{ strftime_now.__globals__['x'] }}", {}).render(CHAT)


def test_a_template_keeps_nothing_from_one_record_to_the_next():
    template = ChatTemplate(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", {}
    )
    assert [template.render(CHAT), template.render(CHAT[:2]), template.render(CHAT)] == ["5", "2", "5"]


def test_only_a_real_tag_marks_generation():
    assert not ChatTemplate("{% if add_generation_prompt %}{% endif %}{# {% generation %} #}", {}).marks_generation
    assert ChatTemplate("{%- generation -%}x{%- endgeneration -%}", {}).marks_generation


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff{{ messages }}", "byte 0 is not UTF-8.*: save it as UTF-8"),
        (b" " * (1 << 20) + b"x", "1,048,577 bytes, over 1,048,576.*: give a chat template"),
    ],
)
def test_a_template_file_that_cannot_be_one_is_one_sentence(tmp_path, content, words):
    (tmp_path / "t.jinja").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"tokens\.chat_template: .*t\.jinja cannot be used \({words}"):
        choose_template(str(tmp_path / "t.jinja"), None)
    (tmp_path / "chat_template.jinja").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        own_chat_template(tmp_path)


def test_the_byte_order_mark_of_a_template_is_no_text(tmp_path):
    (tmp_path / "t.jinja").write_bytes(b"\xef\xbb\xbf{{ 1 }}")
    assert choose_template(str(tmp_path / "t.jinja"), None) == "{{ 1 }}"


def test_the_template_setting_names_built_in_ones_files_and_sources(tmp_path):
    (tmp_path / "t.jinja").write_text("{{ 1 }}")
    assert choose_template(None, "own") == "own"
    assert choose_template("chatml", "own") == BUILT_IN["chatml"]
    assert choose_template(str(tmp_path / "t.jinja"), None) == "{{ 1 }}"
    assert choose_template("{{ 2 }}", None) == "{{ 2 }}"
    with pytest.raises(ConfigError, match="chatlm"):
        choose_template("chatlm", None)


def test_broken_templates_are_refused_with_their_line():
    with pytest.raises(ConfigError, match="line 2"):
        ChatTemplate("{{ 1 }}\n{% for %}", {})


def test_what_a_marked_stretch_sets_stays_in_it():
    source = "{% set x = 'a' %}{% generation %}{% set x = 'b' %}{{ x }}{% endgeneration %}{{ x }}"
    template = ChatTemplate(source, {})
    assert (template.render(CHAT), template.marked()) == ("ba", [(0, 1)])


@pytest.mark.parametrize(
    ("source", "answers"),
    [
        # The system message stands before the last question, so an answer takes it away; no header is written.
        (
            "{% for m in messages %}{% if m.role == 'user' %}{% if loop.last %}{{ messages[0].content }}{% endif %}"
            "{{ m.content + '<|im_end|>' }}{% elif m.role == 'assistant' %}{{ m.content + '<|eos|>' }}{% endif %}"
            "{% endfor %}",
            ["Hello!<|eos|>", "See you.<|eos|>"],
        ),
        # The header of the next answer is always written.
        (
            "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}"
            "{{ '<|im_start|>assistant\n' }}",
            ["Hello!<|im_end|>", "See you.<|im_end|>"],
        ),
        # The prompt closes a thought in marks of a channel, which the turns do not have.
        (
            "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<|channel>thought\n<channel|>' }}{% endif %}",
            ["Hello!<|im_end|>", "See you.<|im_end|>"],
        ),
        # The header is in the prompt alone.
        (
            "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + '<|eos|>' }}"
            "{% else %}{{ m.content + '|' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}",
            ["Hello!<|eos|>", "See you.<|eos|>"],
        ),
    ],
    ids=["system last", "always a header", "channel", "header in the prompt"],
)
def test_an_answer_behind_a_prompt_that_turns_do_not_have_is_found(source, answers):
    template = ChatTemplate(source, TOKENS)
    found = ExampleFinder(template, CONTROL, ("<|eos|>", "<|im_end|>")).find(CHAT)
    spoken = [example.text[start:end] for example in found for start, end in example.spans]
    assert spoken == answers
    prompts = [template.render(CHAT[:place], True) for place in (2, 4)]
    assert [example.text[:start] for example in found for start, _ in example.spans] == prompts


def test_an_end_that_is_mere_text_is_refused_with_what_to_do():
    source = "{% for m in messages %}{{ m.role + ': ' + m.content + '</s>' }}{% endfor %}"
    source += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    with pytest.raises(DataError, match=r"ends an answer with '</s>', at which generation does not stop"):
        ExampleFinder(ChatTemplate(source, TOKENS), CONTROL, ("<|eos|>",), "<|eos|>").find(CHAT)


def test_a_name_that_data_columns_names_must_be_written():
    chat = [{**message, "name": "Zoe"} if message["role"] == "user" else message for message in CHAT]
    with pytest.raises(DataError, match=r"the name of a turn \(user\), which data\.columns names"):
        spoken(QWEN, chat)
