"""ORPO on packed rows: learns the chosen answer and prefers it to the rejected one, without a reference model."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.batches import IGNORED, BatchLayout
from snaketune.train.preference.answer_trainer import AnswerTrainer, Tally, require_pairs
from snaketune.train.preference.dpo import locate_documents, number_documents, sum_by_document
from snaketune.train.preference.reference import token_log_probs
from snaketune.train.row_order import RowCollator


@dataclass(frozen=True, slots=True)
class OddsRatioLoss:
    """The loss of Hong et al. 2024 (arXiv:2403.07691); ``beta`` is the weight of the odds ratio, their lambda."""

    beta: float

    def __call__(self, means: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the odds-ratio term of the loss and the reward margin of each pair, both of shape [pairs].

        With P the geometric mean of an answer's token probabilities and odds P / (1 - P), the term is -beta times the
        log-sigmoid of the log odds ratio (their equations 4 and 7). The reward is beta times log P, as in TRL.

        Args:
            means: log P of each document: the mean log-probability of its trained tokens in nats, below 0, shape
                [documents].
        """
        # log(odds of chosen / odds of rejected), with log odds = log P - log(1 - P).
        chosen, rejected = means[0::2], means[1::2]
        log_odds = (chosen - rejected) - (_log_of_rest(chosen) - _log_of_rest(rejected))
        return -self.beta * logsigmoid(log_odds), self.beta * (chosen - rejected)


def _log_of_rest(log_prob: torch.Tensor) -> torch.Tensor:
    """Return log(1 - exp(x)) for x < 0 without loss of digits (Mächler 2012, note in the R package Rmpfr)."""
    # Above -log 2, exp(x) is near 1 and 1 - exp(x) cancels: expm1. Below, exp(x) is small beside 1: log1p.
    return torch.where(log_prob < -math.log(2), torch.log1p(-torch.exp(log_prob)), torch.log(-torch.expm1(log_prob)))


class ChosenCollator:
    """Collate packed rows of pairs into a batch, with the positions of their answers and whole chosen documents."""

    def __init__(self, rows: PackedRows, layout: BatchLayout):
        self._collate, self._rows = RowCollator(rows, layout), rows

    def __call__(self, indices: list[int]) -> dict[str, Any]:
        """Return the batch of the rows ``indices``."""
        batch = self._collate(indices)
        return batch | locate_chosen(batch, torch.from_numpy(self._rows.tokens[indices]).long())


def locate_chosen(batch: dict[str, Any], tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the positions of a batch's answers and of all tokens of the chosen documents except their first.

    Arguments and result are those of :func:`~snaketune.train.preference.dpo.locate_documents`, with two more entries:
    ``answers``, whether a token belongs to an answer (bool, shape [tokens]), and ``learned``, the count of loss-bearing
    tokens of each chosen document (int64, shape [pairs]).
    """
    labels, positions = batch["labels"], batch["position_ids"]
    numbers, is_real = number_documents(batch, tokens)
    is_answer = (labels != IGNORED).flatten()
    # Both answers for the odds ratio; of the chosen documents (even numbers) prompt and answer for the likelihood. The
    # first token of a document has no state of the same document that predicts it.
    wanted = is_answer | ((numbers % 2 == 0) & is_real & (positions != 0).flatten())
    at = wanted.nonzero().flatten()
    owners = numbers[at]
    sizes = locate_documents(batch, tokens)["sizes"]
    return {
        "places": at - 1,
        "targets": batch["input_ids"].flatten()[at],
        "owners": owners,
        "sizes": sizes,
        "answers": is_answer[at],
        "learned": torch.bincount(owners, minlength=len(sizes))[0::2],
    }


class OddsRatioTrainer(AnswerTrainer):
    """Trainer with the loss of ORPO on pairs.

    The loss is the mean of the odds-ratio terms plus the negative log-likelihood of the chosen documents, prompt and
    answer, as in TRL. The latter is averaged over all their tokens in the optimizer step, so that the loss does not
    depend on how the step is divided into micro-batches.
    """

    def __init__(self, *args, loss: OddsRatioLoss, **kwargs):
        """Take the arguments of PackedTrainer and the loss of a pair."""
        super().__init__(*args, **kwargs)
        trained: Any = self.train_dataset
        for part in (trained.rows, self._held_out):
            require_pairs(part, "orpo")
        self._pair_loss, self._pairs_per_token = loss, 0.0
        self.data_collator = ChosenCollator(trained.rows, self._layout)
        self._held_out_collator = ChosenCollator(self._held_out, self._layout)

    def _losses(self, model: Any, batch: dict[str, Any], tally: Tally) -> torch.Tensor:
        found = token_log_probs(model, batch)
        documents, owners, sizes = len(batch["sizes"]), batch["owners"], batch["sizes"]
        # The odds ratio compares the answers alone: the prompt has the same tokens in both documents.
        sums = sum_by_document(found * batch["answers"], owners, documents)
        parts, margins = self._pair_loss(sums / sizes)
        # compute_loss divides the sum over pairs by the pairs of the step; times pairs per token, the likelihood part
        # becomes a mean over the step's tokens.
        learned = -sum_by_document(found, owners, documents)[0::2]
        tally.add(margins.detach(), (sums[0::2] - sums[1::2]).detach())
        return parts + learned * self._pairs_per_token

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        pairs = super()._get_num_items_in_batch(batch_samples, device)
        tokens = sum(int(batch["learned"].sum()) for batch in batch_samples)
        self._pairs_per_token = pairs / self.accelerator.gather(torch.full((), tokens, device=device)).sum()
        return pairs

    def held_out_measures(self) -> dict[str, float]:
        """Return the mean loss and ranking metrics of the held-out pairs; an empty dictionary if interrupted."""
        # The first token of a document is predicted from nothing and bears no loss.
        sizes = [
            document.length - 1 for row in range(len(self._held_out)) for document in self._held_out.documents(row)
        ]
        self._pairs_per_token = len(sizes[0::2]) / max(1, sum(sizes[0::2]))
        return super().held_out_measures()
