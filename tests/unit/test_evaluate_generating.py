import pytest
import torch
from tiny_run import WORDS, llama
from transformers import GenerationConfig

from snaketune.core.errors import TrainingError
from snaketune.evaluate.answers.generating import Decoding, answer_batches, generate_answers, until_stop, with_room
from snaketune.evaluate.answers.prompts import Prompt
from snaketune.evaluate.answers.questions import Questions
from snaketune.model.tiny.tiny_tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)] * 4, 300, 128)


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return llama(300)


def prompts_of(lengths):
    generator = torch.Generator().manual_seed(5)
    made = [tuple(torch.randint(10, 290, (n,), generator=generator).tolist()) for n in lengths]
    return [Prompt(place, "", ids, "") for place, ids in enumerate(made)]


def alone(model, tokenizer, prompt, limit, stops):
    """The answer by hand: no batch, no padding, no cache, one arg max after the other."""
    ids = list(prompt.ids)
    while len(ids) < len(prompt.ids) + limit:
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token in stops:
            break
        ids.append(token)
    return tokenizer.decode(ids[len(prompt.ids) :], skip_special_tokens=True)


def test_batched_answers_are_those_given_one_by_one(model, tokenizer):
    prompts = prompts_of([3, 30, 7, 7, 19, 1, 12])
    expected = [alone(model, tokenizer, prompt, 12, ()) for prompt in prompts]
    assert generate_answers(model, tokenizer, prompts, Decoding(12, 4, (), 0)).texts == expected
    assert len(set(expected)) > 1


def test_an_answer_ends_at_any_of_several_stop_tokens(model, tokenizer):
    prompts = prompts_of([3, 9, 14])
    free = [
        model.generate(torch.tensor([p.ids]), do_sample=False, max_new_tokens=8, eos_token_id=None) for p in prompts
    ]
    stops = tuple({int(ids[0, len(p.ids) + 3]) for ids, p in zip(free, prompts, strict=True)})
    expected = [alone(model, tokenizer, prompt, 8, stops) for prompt in prompts]
    assert generate_answers(model, tokenizer, prompts, Decoding(8, 3, stops, 0)).texts == expected


def test_an_answer_without_an_end_is_called_cut(model, tokenizer):
    prompts = prompts_of([3, 9, 14])
    (free,) = model.generate(torch.tensor([prompts[1].ids]), do_sample=False, max_new_tokens=8, eos_token_id=None)
    stops = (int(free[9 + 7]),)  # where it first stands decides, at the latest in the last place
    found = generate_answers(model, tokenizer, prompts, Decoding(8, 3, stops, 0))
    texts = [alone(model, tokenizer, prompt, 8, stops) for prompt in prompts]
    longest = [alone(model, tokenizer, prompt, 8, ()) for prompt in prompts]
    assert found.cut == [text == whole for text, whole in zip(texts, longest, strict=True)]
    assert found.cut[1] is False
    assert generate_answers(model, tokenizer, prompts, Decoding(8, 3, (), 0)).cut == [True, True, True]


def test_sampling_defaults_of_the_model_are_not_inherited_and_survive(model, tokenizer):
    prompts = prompts_of([5, 11])
    expected = generate_answers(model, tokenizer, prompts, Decoding(10, 2, (), 0))
    own = GenerationConfig(do_sample=True, temperature=9.0, top_k=5, repetition_penalty=5.0, min_new_tokens=3)
    before, model.generation_config = model.generation_config, own
    try:
        assert generate_answers(model, tokenizer, prompts, Decoding(10, 2, (), 0)) == expected
        assert model.generation_config is own
    finally:
        model.generation_config = before


def test_answers_stay_within_the_context_whatever_the_batch(model, tokenizer):
    prompts = with_room(prompts_of([128, 127, 120, 20]), model)
    assert [len(prompt.ids) for prompt in prompts] == [127, 120, 20]
    batches = list(answer_batches(prompts, Decoding(10, 8, (), 0), 128))
    assert batches == [(1, [0]), (8, [1]), (10, [2])]


def test_a_full_gpu_says_which_key_to_lower(model, tokenizer, monkeypatch):
    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "generate", no_memory)
    with pytest.raises(TrainingError, match=r"evaluate\.batch_size: 2 prompts"):
        generate_answers(model, tokenizer, prompts_of([3]), Decoding(4, 2, (), 0))


def test_until_stop():
    assert until_stop([5, 6, 2, 7], (2, 3)) == [5, 6]
    assert until_stop([5, 6], (2, 3)) == [5, 6]
    assert until_stop([2], (2,)) == []


def test_answers_that_change_from_one_model_to_the_next_are_counted():
    questions = Questions([], {}, answers={"base": ["x", "y"], "tuned": ["a", "b", "c"], "merged": ["a", "b ", "d"]})
    assert questions.changed("tuned", "merged") == {"changed": 2, "n": 3}
    assert Questions([], {}, answers={"tuned": ["a"]}).changed("tuned", "merged") == {}
