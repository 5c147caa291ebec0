"""The short way of ordinary conversations gives the documents, and the refusals, of the long way."""

import itertools

import pytest
from data_tokenizers import CHATS, LLAMA3, PREFIXED, QWEN, THINKING, TRIMMING, make_folder

from snaketune.data.templates.built_in_templates import BUILT_IN
from snaketune.data.templates.rendering import Renderer, Unusable
from snaketune.data.templates.templates import ChatTemplate
from snaketune.data.tokens.token_borders import Borders
from snaketune.data.tokens.tokenizer import TextTokenizer

REFUSING = "{% if 'x' in messages[0].content %}{{ raise_exception('no x') }}{% endif %}" + BUILT_IN["chatml"]
DROPPING = BUILT_IN["chatml"].replace("message['content'] + '<|im_end|>\\n'", "'<|im_end|>\\n'")
TEMPLATES = [BUILT_IN["chatml"], BUILT_IN["plain"], QWEN, LLAMA3, TRIMMING, PREFIXED, THINKING, REFUSING, DROPPING]
CONTENTS = ("a", " a", "\n", "", None, "<think>\nt\n</think>\n\na", "<b>", "[x", "é x", "a<|im_end|>", "assistant")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return TextTokenizer(make_folder(tmp_path_factory.mktemp("model")))


def records():
    chats = list(CHATS)
    for asked, answer in itertools.product(CONTENTS, repeat=2):
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        chats += [turns, turns + turns, [{"role": "system", "content": asked}, *turns]]
    for more in ({"weight": 0}, {"weight": 1}, {"reasoning_content": "r"}):
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2
        chats += [[turns[0], {**turns[1], **more}, *turns[2:]], [*turns[:3], {**turns[3], **more}]]
    for messages in chats:
        yield {"source": 0, "line": 1, "messages": messages}
    yield {"source": 0, "line": 1, "messages": CHATS[1], "tools": [{"type": "function", "function": {"name": "f"}}]}
    yield {"source": 0, "line": 1, "text": "a"}


def made(renderer, record):
    try:
        return renderer.render(0, record)
    except Unusable as unusable:
        return unusable.reason, unusable.detail
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("reasoning", ["auto", "train", "drop"])
def test_both_ways_give_the_same_documents(tokenizer, template, reasoning):
    compiled = ChatTemplate(template, tokenizer.special_tokens)
    quick, slow = (Renderer(tokenizer, compiled, True, "train.jsonl", False, reasoning) for _ in range(2))
    slow._has_short_way = False
    short, taken = quick._of_ordinary, []
    quick._of_ordinary = lambda number, record: taken.append(short(number, record)) or taken[-1]
    for record in records():
        assert made(quick, record) == made(slow, record), record
    assert any(taken) == (template != DROPPING)


def test_a_border_is_the_same_wherever_it_is_met(tokenizer):
    pieces = ("<|im_start|>assistant\n", "<|im_end|>", "a", " a", "\n\n", "é", "1", "user\n", "  ")
    borders = Borders(tokenizer)
    for left, right, end in itertools.product(pieces, repeat=3):
        text = left + right + end
        for at in range(len(text) + 1):
            alone = at in (0, len(text)) or Borders._decide(borders, text, at)
            assert borders.is_border(text, at) == alone
