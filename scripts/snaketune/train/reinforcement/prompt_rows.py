"""The prompts of GRPO: the text before the last answer of each document in packed rows, and that answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.answers.generating import spelled
from snaketune.train.reinforcement.rewards import applicable

# Tokens that may end the answers of one chat template.
MOST_STOPS = 4


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts to generate answers to.

    Attributes:
        ids: token ids of each prompt.
        texts: the prompts as text; equal ones have equal ids.
        references: the answer that the data give to each.
        stops: the tokens that end an answer, ascending.
    """

    ids: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    references: tuple[str, ...]
    stops: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.ids))

    def examples(self) -> list[dict[str, str]]:
        """Return the prompts as TRL takes them."""
        pairs = zip(self.texts, self.references, strict=True)
        return [{"prompt": text, "reference": reference} for text, reference in pairs]


def prompts_of(rows: PackedRows, tokenizer: Any, rewards: Sequence[str]) -> Prompts:
    """Return the prompts of the rows' documents in the order of their records.

    Documents without a prompt, or with a reference that a reward does not apply to, are left out and counted.

    Raises:
        DataError: if none is left, or answers do not end in the same few tokens.
    """
    documents = sorted(_documents(rows), key=lambda found: found[0])
    asked = [(ids, begin, end) for _, ids, begin, end in documents if begin > 1]
    stops = sorted({int(ids[end - 1]) for ids, _, end in asked})
    if len(stops) > MOST_STOPS:
        raise DataError(
            f"train.method: grpo: the answers of train.arrow end in {len(stops)} different tokens, so that none says"
            " that an answer is over: choose a chat template that ends turns (tokens.chat_template)."
        )
    answers = [spelled(tokenizer, ids[begin:end].tolist()).strip() for ids, begin, end in asked]
    kept = applicable(rewards, answers)
    left = len(documents) - len(kept)
    if not kept:
        raise DataError(
            f"train.grpo.rewards: {', '.join(rewards)}: none of the {len(documents)} documents of train.arrow has a"
            " prompt and a reference that this applies to: choose other rewards, or give data with such answers."
        )
    if left:
        print(f"Left out: {left} of {len(documents)} documents without a prompt or a reference for the rewards.")
    ids = tuple(tuple(asked[place][0][: asked[place][1]].tolist()) for place in kept)
    texts = tuple(tokenizer.decode(list(own), skip_special_tokens=False) for own in ids)
    return Prompts(ids, texts, tuple(answers[place] for place in kept), tuple(stops))


def _documents(rows: PackedRows) -> list[tuple[int, np.ndarray, int, int]]:
    """Return for each document its record, its tokens, and the start and end of its last span of trained tokens."""
    found = []
    for row in range(len(rows)):
        ids, mask = (rows.take(name, [row])[0] for name in ("input_ids", "loss_mask"))
        for document in rows.documents(row):
            part = slice(document.start, document.start + document.length)
            trained = np.flatnonzero(mask[part])
            if len(trained):
                breaks = np.flatnonzero(np.diff(trained) > 1)
                begin = int(trained[breaks[-1] + 1]) if len(breaks) else int(trained[0])
                found.append((document.record, ids[part], begin, int(trained[-1]) + 1))
    return found


def require_context(prompts: Prompts, completion: int, context: int | None) -> None:
    """Check that the longest prompt with an answer fits the model's context.

    Raises:
        ConfigError: if they do not.
    """
    if context and prompts.longest + completion > context:
        raise ConfigError(
            f"train.grpo.max_completion_length: {completion} tokens and the longest prompt's {prompts.longest} exceed"
            f" the model's context of {context}: lower it, or tokens.max_length."
        )
