import numpy as np
import orjson
import pytest
from tiny_run import WORDS, conversations, llama

from snaketune.data.templates.rendering import Renderer
from snaketune.data.templates.templates import ChatTemplate
from snaketune.data.tokens.tokenizer import TextTokenizer
from snaketune.evaluate.answers.prompts import choose_prompts, last_answer, stop_tokens
from snaketune.model.tiny.tiny_tokenizer import CHAT_TEMPLATE, train_tokenizer

CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "3"}
TOOL = {"type": "function", "function": {"name": "add"}}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)] * 4, 300, 128)


def choose(tmp_path, records, limit, tokenizer, kept=None, template=CHAT_TEMPLATE):
    path = tmp_path / "eval.jsonl"
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    kept = np.arange(len(records)) if kept is None else np.array(kept)
    return choose_prompts(path, kept, limit, tokenizer, template)


def test_a_prompt_is_the_conversation_up_to_the_last_answer(tmp_path, tokenizer):
    turns = [
        ("system", "s"),
        ("user", "u"),
        ("assistant", "first"),
        ("user", "v"),
        ("assistant", "last"),
        ("user", "w"),
    ]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (prompt,), refused = choose(tmp_path, [record], 5, tokenizer)
    assert prompt.text == "<|bos|><|system|>s<|user|>u<|assistant|>first<|eos|><|user|>v<|assistant|>"
    assert prompt.reference == "last"
    assert tokenizer.decode(prompt.ids) == prompt.text
    assert refused == []


def test_the_sample_is_decided_by_content_and_given_in_order(tmp_path, tokenizer):
    records = conversations(40)
    chosen, _ = choose(tmp_path, records, 10, tokenizer)
    numbers = [prompt.record for prompt in chosen]
    assert len(numbers) == 10 and numbers == sorted(numbers) and numbers != list(range(10))
    turned, _ = choose(tmp_path, records[::-1], 10, tokenizer)
    assert {prompt.text for prompt in turned} == {prompt.text for prompt in chosen}
    fewer, _ = choose(tmp_path, records, 4, tokenizer)
    assert {prompt.record for prompt in fewer} < set(numbers)


def test_text_and_dropped_records_and_answers_without_a_request_give_no_prompt(tmp_path, tokenizer):
    lone = {"messages": [{"role": "assistant", "content": "hello"}]}
    records = [{"text": "plain"}, lone, *conversations(2)]
    chosen, _ = choose(tmp_path, records, 10, tokenizer, kept=[0, 1, 3])
    assert [prompt.record for prompt in chosen] == [3]
    assert choose(tmp_path, records, 10, tokenizer, template="") == ([], [])
    assert choose(tmp_path, records, 0, tokenizer) == ([], [])


def test_a_conversation_that_the_template_refuses_is_counted(tmp_path, tokenizer):
    tale = [{"role": role, "content": "x"} for role in ("narrator", "assistant")]
    chosen, refused = choose(tmp_path, [{"messages": tale}, *conversations(1)], 10, tokenizer)
    assert ([prompt.record for prompt in chosen], refused) == ([1], [0])


def test_last_answer():
    assert last_answer([{"role": "user"}, {"role": "assistant"}, {"role": "user"}]) == 1
    assert last_answer([{"role": "user"}]) == -1


def test_stop_tokens_are_those_of_model_tokenizer_and_template(tokenizer):
    model = llama(300)
    model.generation_config.eos_token_id = [7, 9]
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    template = CHAT_TEMPLATE.replace("+ eos_token", "+ '<|user|>'")
    assert stop_tokens(model, tokenizer, template) == sorted({7, 9, tokenizer.eos_token_id, user})
    model.generation_config.eos_token_id = None
    assert stop_tokens(model, tokenizer, CHAT_TEMPLATE) == [tokenizer.eos_token_id]


def test_tools_and_calls_reach_the_prompt_as_they_do_in_training(tmp_path, tokenizer):
    question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    record = {"source": 0, "line": 1, "messages": [question, call, RESULT, answer], "tools": [TOOL]}
    (prompt,), refused = choose(tmp_path, [record], 5, tokenizer)
    tokenizer.save_pretrained(tmp_path / "model")
    own = TextTokenizer(tmp_path / "model")
    template = ChatTemplate(CHAT_TEMPLATE, own.special_tokens)
    (document,) = Renderer(own, template, True, "train.jsonl").render(0, record)
    assert document.text == prompt.text + "b<|eos|>"
    assert prompt.text == (
        '<|bos|><|system|>Tools:\n{"type": "function", "function": {"name": "add"}}<|user|>a'
        '<|assistant|>Call: {"name": "add", "arguments": {"a": 1}}<|eos|><|user|>Result: 3<|assistant|>'
    )
    assert (prompt.reference, refused) == ("b", [])


def test_of_a_pair_the_chosen_answer_is_the_reference(tmp_path, tokenizer):
    question, one, other = ({"role": role, "content": role[:1]} for role in ("user", "assistant", "assistant"))
    record = {"messages": [question], "chosen": [one], "rejected": [{**other, "content": "z"}]}
    (prompt,), _ = choose(tmp_path, [record], 5, tokenizer)
    assert (prompt.text, prompt.reference) == ("<|bos|><|user|>u<|assistant|>", "a")


def test_an_answer_of_weight_0_is_no_answer_to_compare_with():
    question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    assert last_answer([question, answer, question, {**answer, "weight": 0}]) == 1
    assert last_answer([question, {**answer, "weight": 0}]) == -1


def test_a_tool_call_is_no_answer_to_compare_with():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    assert last_answer([question, answer, question, call]) == 1
    assert last_answer([question, call]) == -1
