"""The KTO trainer: batches of good and bad answers, their reference, the KL term of a step, and the loss."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.preference.answer_trainer import Sums
from snaketune.train.preference.kto import MismatchedCollator, UnpairedLoss, require_answers
from snaketune.train.preference.reference import PairCollator, ReferencedTrainer, document_log_probs

NO_KL = torch.zeros(())


@dataclass(slots=True)
class AnswerTally(Sums):
    """Summed rewards of good and bad answers."""

    good: Any = 0.0
    bad: Any = 0.0
    good_reward: Any = 0.0
    bad_reward: Any = 0.0
    divergence: Any = 0.0
    answers: int = 0

    def add(self, rewards: torch.Tensor, rejected: torch.Tensor, kl: torch.Tensor) -> None:
        """Add answers with their rewards; ``rejected`` marks the bad ones."""
        self.answers += len(rewards)
        bad = rejected.double()
        self.good += (1 - bad).sum()
        self.bad += bad.sum()
        self.good_reward += (rewards * (1 - bad)).sum()
        self.bad_reward += (rewards * bad).sum()
        self.divergence += kl.double() * len(rewards)

    @property
    def units(self) -> int:
        """The number of losses that the mean is taken over."""
        return self.answers

    def means(self) -> dict[str, float]:
        """Return the mean rewards of good and bad answers, the margin between them and the KL term."""
        good, bad = (
            float(total) / max(float(count), 1)
            for total, count in ((self.good_reward, self.good), (self.bad_reward, self.bad))
        )
        margin = {"reward_margin": good - bad} if float(self.good) and float(self.bad) else {}
        kl = float(self.divergence) / max(self.answers, 1)
        return {"reward_good": good, "reward_bad": bad, **margin, "kl": kl}


class LabelledCollator(PairCollator):
    """Collate packed rows into a batch, with the labels of their answers and the mismatched documents of these rows."""

    def __init__(self, rows: PackedRows, layout: Any, reference: list[np.ndarray], mismatched: MismatchedCollator):
        super().__init__(rows, layout, reference)
        self._mismatched = mismatched

    def __call__(self, indices: list[int]) -> dict[str, Any]:
        """Return the batch of the rows ``indices``."""
        rejected = torch.from_numpy(np.concatenate([self._rows.rejected(row) for row in indices]))
        batch = super().__call__(indices) | {"rejected": rejected}
        return batch | ({"mismatched": self._mismatched(indices)} if len(self._mismatched) else {})


class UnpairedTrainer(ReferencedTrainer):
    """Trainer with the loss of KTO on single answers.

    The KL term of a step is estimated over all of its mismatched documents, without gradient and without dropout,
    before its first backward pass, so that it does not depend on how the step is divided into micro-batches. TRL
    estimates one per micro-batch; both agree where a step is a single one.
    """

    tally_kind = AnswerTally

    def __init__(self, *args, loss: UnpairedLoss, is_sample: bool = False, **kwargs):
        """Take the arguments of ReferencedTrainer and the loss of an answer; compute or load the reference.

        With ``is_sample`` the rows are a sample to measure speed, which may hold one kind of answers only.
        """
        super().__init__(*args, **kwargs)
        self._answer_loss, self._kl = loss, NO_KL
        trained: Any = self.train_dataset
        rows = {"train": trained.rows, "eval": self._held_out}
        mismatched = {split: MismatchedCollator(part, self._layout) for split, part in rows.items()}
        if not is_sample:
            require_answers(rows["train"], mismatched["train"])
        collators = {}
        for split, part in rows.items():
            answers = self._reference_of(split, part, PairCollator(part, self._layout), part.row_length)
            others = mismatched[split]
            if len(others):
                others.with_reference(self._reference_of(f"{split}-mismatched", part, others, part.row_length))
            collators[split] = LabelledCollator(part, self._layout, answers, others)
        self.data_collator, self._held_out_collator = collators["train"], collators["eval"]

    def _units(self, batch: dict[str, Any]) -> int:
        return len(batch["sizes"])

    def _losses(self, model: Any, batch: dict[str, Any], tally: AnswerTally) -> torch.Tensor:
        ratios = document_log_probs(model, batch) - batch["reference"]
        tally.add((self._answer_loss.beta * ratios).detach(), batch["rejected"], self._kl)
        return self._answer_loss(ratios, self._kl, batch["rejected"])

    def get_batch_samples(self, *args, **kwargs):
        """Take the batches of an optimizer step and estimate its KL term."""
        samples, units = super().get_batch_samples(*args, **kwargs)
        found = [batch.pop("mismatched") for batch in samples if "mismatched" in batch]
        if samples:
            # Once per optimizer step, so that all of its micro-batches use the same KL term.
            self._kl = self._estimate(map(self._prepare_inputs, found))
        return samples, units

    @torch.no_grad()
    def _estimate(self, batches: Any) -> torch.Tensor:
        """Return the mean log-ratio of policy to reference over mismatched documents, in nats, at least 0."""
        total, count = torch.zeros((), dtype=torch.float64, device=self.args.device), 0
        model = self._model()
        was_training = model.training
        model.eval()
        with self._plainly():
            for batch in batches:
                total += (document_log_probs(model, batch) - batch["reference"]).double().sum()
                count += len(batch["sizes"])
        model.train(was_training)
        # A divergence is never negative, but an estimate from few documents can be.
        return (total / max(count, 1)).float().clamp(min=0)

    def held_out_measures(self) -> dict[str, float]:
        """Return mean loss and rewards of the held-out answers, with a KL term estimated over all of them."""
        kept = self._kl
        found = self._batches(self._held_out_collator, range(len(self._held_out)), self._eval_rows)
        self._kl = self._estimate(batch["mismatched"] for batch in found if "mismatched" in batch)
        try:
            return super().held_out_measures()
        finally:
            self._kl = kept
