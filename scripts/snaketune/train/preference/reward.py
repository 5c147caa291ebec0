"""Reward models on packed rows: the score of each document, the loss of pairs, and the trainer."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.model.reward_model import padding_of
from snaketune.train.batches import BatchLayout
from snaketune.train.preference.answer_trainer import AnswerTrainer, PairSums, require_pairs
from snaketune.train.preference.dpo import number_documents
from snaketune.train.preference.reference import MODEL_INPUTS
from snaketune.train.row_order import RowCollator


@dataclass(frozen=True, slots=True)
class PairScoreLoss:
    """The loss of a pair by its two scores.

    ``center_rewards_coefficient`` weighs the squared sum of both scores, which keeps scores around 0 (Eisenstein et al.
    2023, arXiv:2312.09244); None leaves it out. ``margin_weight`` multiplies the margins of the data.
    """

    center_rewards_coefficient: float | None = None
    margin_weight: float = 1.0

    def __call__(self, chosen: torch.Tensor, rejected: torch.Tensor, margins: torch.Tensor) -> torch.Tensor:
        """Return the loss of each pair, shape [pairs]: that of Bradley and Terry, as in TRL's RewardTrainer.

        A margin is what the scores have to differ by (Touvron et al. 2023, arXiv:2307.09288, equation 2).

        Args:
            chosen: scores of the chosen answers, shape [pairs].
            rejected: scores of the rejected answers, shape [pairs].
            margins: by how much the chosen answers are better, shape [pairs]; 0 for pairs without one.
        """
        losses = -logsigmoid(chosen - rejected - self.margin_weight * margins)
        if self.center_rewards_coefficient is not None:
            # Bradley-Terry fixes differences only: without this term, adding a constant to all scores costs nothing.
            losses = losses + self.center_rewards_coefficient * (chosen + rejected) ** 2
        return losses


def install_scores(model: Any) -> None:
    """Make the model's forward pass return the scores of texts that end at given places when it is given ``ends``.

    ``model(**inputs, ends=...)`` then returns ``{"scores": ...}``, float32, shape [documents]. Other calls go to the
    original forward pass, whose scores are of whole rows.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    whole = base.forward

    @functools.wraps(whole)
    def forward(*args, ends=None, **inputs):
        if ends is None:
            return whole(*args, **inputs)
        inputs = {name: value for name, value in inputs.items() if value is not None}
        # Scores of the last tokens only; the head has its own dtype, float32 while it is trained on a 16-bit model.
        states = base.base_model(*args, **inputs, use_cache=False).last_hidden_state.flatten(0, 1)[ends]
        return {"scores": base.score(states.to(base.score.weight.dtype)).squeeze(-1).float()}

    base.forward = forward


def document_ends(batch: dict[str, Any], tokens: torch.Tensor, padding: int | None) -> torch.Tensor:
    """Return the flat position of the token that scores each document of a batch, int64, shape [documents].

    It is the last token that is not ``padding``, as in transformers: a text may end in that token itself.

    Args:
        batch: ``input_ids`` and ``position_ids`` of the rows, shape [rows, row_length].
        tokens: real tokens of each row, int64, shape [rows].
        padding: id of the padding token of the model's configuration.
    """
    numbers, is_real = number_documents(batch, tokens)
    ids = batch["input_ids"].flatten()
    places = (is_real & (ids != padding) if padding is not None else is_real).nonzero().flatten()
    count = int(numbers[is_real].max()) + 1
    # A text of nothing but padding tokens is scored at its first one: argmax over zeros, in transformers.
    firsts = (is_real & (batch["position_ids"].flatten() == 0)).nonzero().flatten()
    found = torch.zeros(count, dtype=torch.int64).scatter_reduce(0, numbers[places], places, "amax")
    return torch.maximum(found, firsts)


class ScoringCollator:
    """Collate packed rows into a batch, with the margins of their pairs and the positions of the tokens that score."""

    def __init__(self, rows: PackedRows, layout: BatchLayout, padding: int | None):
        self._collate, self._rows, self._padding = RowCollator(rows, layout), rows, padding

    def __call__(self, indices: list[int]) -> dict[str, Any]:
        """Return the batch of the rows ``indices``."""
        batch = self._collate(indices)
        ends = document_ends(batch, torch.from_numpy(self._rows.tokens[indices]).long(), self._padding)
        margins = np.concatenate([self._rows.margins(index) for index in indices])
        return batch | {"ends": ends, "sizes": ends, "margins": torch.from_numpy(margins)}


@dataclass(slots=True)
class ScoreTally(PairSums):
    """Sums over pairs that are ranked by their scores."""

    score: Any = 0.0

    def add(self, chosen: torch.Tensor, rejected: torch.Tensor) -> None:
        """Add pairs with the scores of their answers."""
        self.pairs += len(chosen)
        self.margin += (chosen - rejected).double().sum()
        self.rewarded += (chosen > rejected).double().sum()
        # In float64: sums over thousands of pairs would lose digits in float32.
        self.score += (chosen + rejected).double().sum() / 2

    def means(self) -> dict[str, float]:
        """Return the mean difference of a pair's scores, the fraction of pairs ranked right, and the mean score."""
        count = max(self.pairs, 1)
        return {
            "reward_margin": float(self.margin) / count,
            "reward_accuracy": float(self.rewarded) / count,
            "reward_mean": float(self.score) / count,
        }


class RewardTrainer(AnswerTrainer):
    """Trainer of a reward model on pairs; the loss of an optimizer step is the mean over its pairs."""

    tally_kind = ScoreTally

    def __init__(self, *args, loss: PairScoreLoss, **kwargs):
        """Take the arguments of PackedTrainer and the loss of a pair."""
        super().__init__(*args, **kwargs)
        trained: Any = self.train_dataset
        for part in (trained.rows, self._held_out):
            require_pairs(part, "reward")
        self._pair_loss, padding = loss, padding_of(self._model())
        self.data_collator = ScoringCollator(trained.rows, self._layout, padding)
        self._held_out_collator = ScoringCollator(self._held_out, self._layout, padding)

    def _install(self, model: Any) -> None:
        install_scores(model)

    def _losses(self, model: Any, batch: dict[str, Any], tally: ScoreTally) -> torch.Tensor:
        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        scores = model(**inputs, ends=batch["ends"])["scores"]
        chosen, rejected = scores[0::2], scores[1::2]
        tally.add(chosen.detach(), rejected.detach())
        return self._pair_loss(chosen, rejected, batch["margins"])
