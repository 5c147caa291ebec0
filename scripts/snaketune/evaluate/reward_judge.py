"""A reward model as a judge of answers: of generated ones in an evaluation, and of samples in training."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from snaketune.core.errors import ConfigError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.models import ModelSettings, load_model, with_faster_layers
from snaketune.model.reward_model import padding_of
from snaketune.model.tokenizer_files import tokenizer_digest
from snaketune.train.packages import NONE

# Rows that tell how the documents of a data set end.
SAMPLE_ROWS = 64


class Judge:
    """A reward model, loaded once, that scores texts given as token ids.

    Args:
        folder: the merged reward model.
        settings: how it is loaded.
        batch: texts in one forward pass.
    """

    def __init__(self, folder: Path, settings: ModelSettings, batch: int = 64):
        self._model = with_faster_layers(load_model(folder, replace(settings, quantization=NONE, scores=True)))
        self._batch = batch

    @torch.no_grad()
    def __call__(self, documents: list[list[int]]) -> np.ndarray:
        """Return the score of each text, float64, shape [texts]."""
        found = np.zeros(len(documents))
        order = sorted(range(len(documents)), key=lambda index: (-len(documents[index]), index))
        padding = padding_of(self._model) or 0
        for start in range(0, len(order), self._batch):
            part = order[start : start + self._batch]
            longest = len(documents[part[0]])
            ids = torch.full((len(part), longest), padding)
            mask = torch.zeros_like(ids)
            for row, index in enumerate(part):
                own = documents[index]
                ids[row, : len(own)], mask[row, : len(own)] = torch.tensor(own), 1
            device = self._model.device
            scores = self._model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
            found[part] = scores[:, 0].double().cpu().numpy()
        return found


def ending_of(rows: PackedRows) -> tuple[int, ...]:
    """Return the tokens that most documents end in: the last trained one, which ends the answer, and what follows.

    A reward model has learned from documents with this ending, so that an answer is scored with it, too.
    """
    found: Counter[tuple[int, ...]] = Counter()
    for row in range(min(SAMPLE_ROWS, len(rows))):
        ids, mask = (rows.take(name, [row])[0] for name in ("input_ids", "loss_mask"))
        for document in rows.documents(row):
            part = slice(document.start, document.start + document.length)
            if (trained := np.flatnonzero(mask[part])).size:
                found[tuple(ids[part][trained[-1] :].tolist())] += 1
    return found.most_common(1)[0][0] if found else ()


def finished(prompt: Sequence[int], answer: Sequence[int], ending: Sequence[int], stops: Sequence[int]) -> list[int]:
    """Return the document of a prompt and an answer: the answer up to its stop token, and the ``ending``."""
    length = next((place for place, token in enumerate(answer) if token in stops), len(answer))
    return [*prompt, *answer[:length], *ending]


def require_same_tokenizer(judge: Path, model: Path, key: str, name: str) -> None:
    """Check that a reward model reads the tokens of the model that it judges.

    Raises:
        ConfigError: if its tokenizer is another one.
    """
    if tokenizer_digest(judge) != tokenizer_digest(model):
        raise ConfigError(
            f"{key}: run:{name} has another tokenizer than the model whose answers it would score: train the reward"
            " model from the same base model, or from one with the same tokenizer."
        )
