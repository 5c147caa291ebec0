"""The held-out requests that answers are generated for."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import orjson

from snaketune.common.canonical import digest_of

SAMPLE = "held-out requests"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered request.

    Attributes:
        record: line of the record in the held-out file.
        text: the conversation up to the answer, as the model reads it.
        ids: its token ids.
        reference: the answer that the data give.
    """

    record: int
    text: str
    ids: tuple[int, ...]
    reference: str


def choose_prompts(
    path: str | Path, tokenized: np.ndarray, limit: int, tokenizer: Any, template: str
) -> tuple[list[Prompt], int]:
    """Return at most ``limit`` prompts in the order of the records, and how many the template refused.

    Which ones is decided by a digest of their content: the choice is stable when records are added, removed or
    reordered around them. Records of plain text have no request, those that tokenising dropped are left out.

    Args:
        path: canonical records of the held-out split.
        tokenized: the records that tokenising kept, sorted.
        limit: how many requests to keep in memory.
        tokenizer: the model's tokenizer.
        template: the chat template in force.
    """
    if not template or limit < 1:
        return [], 0
    chosen = heapq.nsmallest(limit, _candidates(path, set(tokenized.tolist())), key=lambda item: item[:2])
    rendered = [_render(tokenizer, template, *item[1:]) for item in sorted(chosen, key=lambda item: item[1])]
    prompts = [prompt for prompt in rendered if prompt is not None]
    return prompts, len(chosen) - len(prompts)


def _candidates(path: str | Path, kept: set[int]) -> Iterator[tuple[str, int, list[dict[str, str]]]]:
    with open(path, "rb") as lines:
        for number, line in enumerate(lines):
            messages = orjson.loads(line).get("messages") if number in kept else None
            last = last_answer(messages or [])
            if messages and last > 0:
                yield digest_of([SAMPLE, messages]), number, messages[: last + 1]


def last_answer(messages: list[dict[str, Any]]) -> int:
    """Return the place of the last turn in which the assistant answers and calls no tool, -1 without one."""
    answers = (n for n, turn in enumerate(messages) if turn["role"] == "assistant" and not turn.get("tool_calls"))
    return max(answers, default=-1)


def _render(tokenizer: Any, template: str, record: int, messages: list[dict[str, str]]) -> Prompt | None:
    try:
        text = tokenizer.apply_chat_template(
            messages[:-1], chat_template=template, add_generation_prompt=True, tokenize=False
        )
    except jinja2.TemplateError:
        return None
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Prompt(record, text, tuple(ids), messages[-1]["content"])


def stop_tokens(model: Any, tokenizer: Any, template: str) -> list[int]:
    """Return the tokens that end an answer: those of the model, of the tokenizer and of the template's turns.

    A template may end turns with a token that a base model never heard of as an end; without it every answer would
    run on to the limit.
    """
    own = model.generation_config.eos_token_id
    found = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id, _turn_end(tokenizer, template)}
    return sorted(token for token in found if token is not None)


def _turn_end(tokenizer: Any, template: str) -> int | None:
    answer = "answer"
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": answer}]
    try:
        text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
    except jinja2.TemplateError:
        return None
    after = tokenizer(text[text.rindex(answer) + len(answer) :], add_special_tokens=False)["input_ids"]
    return after[0] if after and after[0] in tokenizer.all_special_ids else None
