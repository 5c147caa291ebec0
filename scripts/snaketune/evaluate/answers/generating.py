"""Greedy generation in batches: the same answers as one by one, in a fraction of the time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig

from snaketune.core.errors import TrainingError
from snaketune.data.conversations.reasoning import readable_answer
from snaketune.evaluate.answers.prompts import Prompt
from snaketune.evaluate.answers.timing import TokenTimer


@dataclass(frozen=True, slots=True)
class Decoding:
    """Generation settings: greedy, at most ``max_new_tokens``, up to one of ``stop_ids``."""

    max_new_tokens: int
    batch_size: int
    stop_ids: tuple[int, ...]
    pad_id: int


@dataclass(frozen=True, slots=True)
class GeneratedAnswers:
    """Answers in the order of their prompts: texts and token ids; ``cut`` marks those of the maximum length."""

    texts: list[str]
    cut: list[bool]
    ids: list[list[int]] = field(default_factory=list)


def with_room(prompts: Sequence[Prompt], model: Any) -> list[Prompt]:
    """Return the prompts that leave room for at least one token in the model's context."""
    context = context_length(model)
    return [prompt for prompt in prompts if len(prompt.ids) < context]


def context_length(model: Any) -> int:
    """Return the model's maximum sequence length in tokens; a very large number if it states none."""
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or 1 << 30


@torch.no_grad()
def generate_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], decoding: Decoding, watch: TokenTimer | None = None
) -> GeneratedAnswers:
    """Return the greedy answer to each prompt, in the order of the prompts, as :func:`spelled` writes it.

    Each batch is timed by ``watch`` if there is one.

    Raises:
        TrainingError: when a batch does not fit the GPU's memory.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    answers = GeneratedAnswers([""] * len(prompts), [False] * len(prompts), [[] for _ in prompts])
    own_defaults = model.generation_config
    # generate() fills unset values from the model's own generation configuration, which may sample or penalise.
    model.generation_config = GenerationConfig()
    try:
        for limit, places in answer_batches(prompts, decoding, context_length(model)):
            began = watch.clock() if watch else 0.0
            made = list(_generate(model, [prompts[place].ids for place in places], limit, decoding))
            if watch:
                watch.add(began, sum(map(len, made)))
            for place, ids in zip(places, made, strict=True):
                answers.texts[place], answers.cut[place] = spelled(tokenizer, ids), len(ids) == limit
                answers.ids[place] = ids
    except torch.OutOfMemoryError:
        raise TrainingError(
            f"evaluate.batch_size: {decoding.batch_size} prompts at once do not fit in GPU memory: lower it."
        ) from None
    finally:
        model.generation_config = own_defaults
    return answers


def spelled(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of an answer, keeping only those special tokens that delimit reasoning."""
    written = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    # Marks of reasoning are special tokens in some vocabularies; skipping them would join reasoning and answer.
    marked = readable_answer(written, tokenizer.all_special_tokens)
    if marked is not None:
        return marked
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def answer_batches(prompts: Sequence[Prompt], decoding: Decoding, context: int) -> Iterator[tuple[int, list[int]]]:
    """Yield batches of indices into ``prompts``, longest first, with the maximum length of their answers in tokens.

    All prompts of a batch have the same maximum, so that an answer does not depend on its batch.
    """
    room = [min(decoding.max_new_tokens, context - len(prompt.ids)) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda place: (-len(prompts[place].ids), place))
    for limit in sorted(set(room)):
        equal = [place for place in order if room[place] == limit]
        for start in range(0, len(equal), decoding.batch_size):
            yield limit, equal[start : start + decoding.batch_size]


def _generate(model: Any, prompts: list[tuple[int, ...]], limit: int, decoding: Decoding) -> Iterator[list[int]]:
    # Left, so that all prompts end at the same position, where generation starts.
    inputs, mask = pad_left(prompts, decoding.pad_id)
    made = model.generate(
        input_ids=inputs.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=GenerationConfig(
            max_new_tokens=limit,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            pad_token_id=decoding.pad_id,
            eos_token_id=list(decoding.stop_ids) or None,
        ),
    )
    return (until_stop(ids, decoding.stop_ids) for ids in made[:, inputs.shape[1] :].tolist())


def pad_left(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask of shape [sequences, longest], padded on the left."""
    longest = max(len(ids) for ids in sequences)
    inputs = torch.full((len(sequences), longest), pad_id)
    mask = torch.zeros_like(inputs)
    for row, ids in enumerate(sequences):
        inputs[row, longest - len(ids) :] = torch.tensor(ids)
        mask[row, longest - len(ids) :] = 1
    return inputs, mask


def until_stop(ids: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """Return the ids before the first stop token."""
    end = next((place for place, token in enumerate(ids) if token in stop_ids), len(ids))
    return list(ids[:end])
