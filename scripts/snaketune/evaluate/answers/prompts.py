"""The held-out requests that answers are generated for."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from snaketune.core.canonical import digest_of
from snaketune.core.errors import DataError
from snaketune.data.conversations import reasoning
from snaketune.data.conversations.tool_use import calls_for_template
from snaketune.data.records.canonical_records import conversation_of
from snaketune.data.templates.templates import DEFAULT_DATE, ChatTemplate
from snaketune.facts.token_facts import RENDERING
from snaketune.model.stop_tokens import ids_as_list, turn_ends

HELD_OUT_REQUESTS = "held-out requests"
PromptTurn = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Writing:
    """The rendering of the training conversations, used for prompts as well.

    Attributes:
        date: the current date for templates.
        reasoning: how reasoning was handled.
    """

    date: str = DEFAULT_DATE
    reasoning: str = reasoning.AS_TEMPLATE

    @classmethod
    def of(cls, tokens: Path) -> "Writing":
        """Return the rendering of tokenised records, from their manifest."""
        manifest = tokens / "manifest.json"
        if not manifest.is_file():
            return cls()
        facts = RENDERING.read_manifest(manifest)
        return cls(facts["date"] or DEFAULT_DATE, facts["reasoning"] or reasoning.AS_TEMPLATE)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered request.

    Attributes:
        record: line of the record in the held-out file.
        text: the conversation up to the answer, as the model reads it.
        ids: its token ids.
        reference: the answer in the data.
    """

    record: int
    text: str
    ids: tuple[int, ...]
    reference: str


def choose_prompts(
    path: str | Path,
    tokenized: np.ndarray | None,
    limit: int,
    tokenizer: Any,
    template: str,
    writing: Writing = Writing(),
) -> tuple[list[Prompt], list[int]]:
    """Return at most ``limit`` prompts in the order of the records, and the records that the template rejected.

    Which ones is decided by a digest of their content: the choice is stable when records are added, removed or
    reordered around them. Records of plain text have no request, those that tokenising dropped are left out; of a pair
    the chosen answer is the reference, and a bad answer alone is none.

    Args:
        path: canonical records of the held-out split.
        tokenized: the records that tokenising kept, sorted; None for all of them.
        limit: how many requests to keep in memory.
        tokenizer: the model's tokenizer.
        template: the chat template in force.
        writing: how the training's conversations were written.
    """
    if not template or limit < 1:
        return [], []
    chosen = heapq.nsmallest(limit, _candidates(path, tokenized), key=lambda item: item[:2])
    chosen.sort(key=lambda item: item[1])
    compiled = ChatTemplate(template, tokenizer.special_tokens_map, writing.date)
    rendered = [(item[1], _render(tokenizer, compiled, writing, *item[1:])) for item in chosen]
    prompts = [prompt for _, prompt in rendered if prompt is not None]
    return prompts, [record for record, prompt in rendered if prompt is None]


def _candidates(
    path: str | Path, tokenized: np.ndarray | None
) -> Iterator[tuple[str, int, list[PromptTurn], list[PromptTurn] | None]]:
    # A record whose answers are separate examples occurs several times.
    kept, place = (None if tokenized is None else np.unique(tokenized)), 0
    with open(path, "rb") as lines:
        for number, line in enumerate(lines):
            if kept is not None:
                if place == len(kept) or kept[place] != number:
                    continue
                place += 1
            record = orjson.loads(line)
            is_asked = "messages" in record and ("chosen" in record or "rejected" not in record)
            messages = conversation_of(record) if is_asked else []
            if (last := last_answer(messages)) > 0:
                yield digest_of([HELD_OUT_REQUESTS, messages]), number, messages[: last + 1], record.get("tools")


def last_answer(messages: list[PromptTurn]) -> int:
    """Return the place of the last turn in which the assistant answers, calls no tool and is trained, else -1."""
    answers = (place for place, turn in enumerate(messages) if turn["role"] == "assistant" and _is_answer(turn))
    return max(answers, default=-1)


def _is_answer(turn: PromptTurn) -> bool:
    return not turn.get("tool_calls") and turn.get("weight") != 0


def _render(
    tokenizer: Any,
    template: ChatTemplate,
    writing: Writing,
    record: int,
    messages: list[PromptTurn],
    tools: list[PromptTurn] | None,
) -> Prompt | None:
    given = reasoning.reasoning_for_template(calls_for_template(messages), template.source, writing.reasoning)
    try:
        text = template.render(given[:-1], True, tools)
    except DataError:
        return None
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Prompt(record, text, tuple(ids), reasoning.split_content(messages[-1]["content"])[1])


def stop_tokens(model: Any, tokenizer: Any, template: str) -> list[int]:
    """Return the tokens that end an answer: those of the model, of the tokenizer and of the template's turns.

    A template may end turns with a token that the base model does not treat as an end; without it, every answer would
    run to the limit.
    """
    own = {*own_stops(model), *ids_as_list(tokenizer.eos_token_id)}
    return sorted({*own, *turn_ends(tokenizer, template, own)})


def own_stops(model: Any) -> set[int]:
    """Return the tokens at which the model's generation configuration ends an answer."""
    return set(ids_as_list(model.generation_config.eos_token_id))
