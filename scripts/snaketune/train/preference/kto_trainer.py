"""KTO: good and bad answers in the batches, what the reference gives them, the KL term of a step, and their loss."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.preference.kto import MismatchedCollator, UnpairedLoss, require_answers
from snaketune.train.preference.reference import PairCollator, ReferencedTrainer, document_log_probs

NO_KL = torch.zeros(())


@dataclass(slots=True)
class AnswerTally:
    """What rewards good and bad answers had; sums stay on the device, so that counting does not wait for it."""

    good: Any = 0.0
    bad: Any = 0.0
    good_reward: Any = 0.0
    bad_reward: Any = 0.0
    divergence: Any = 0.0
    answers: int = 0

    def add(self, rewards: torch.Tensor, rejected: torch.Tensor, kl: torch.Tensor) -> None:
        """Count answers with their rewards; ``rejected`` are the bad ones."""
        self.answers += len(rewards)
        bad = rejected.double()
        self.good += (1 - bad).sum()
        self.bad += bad.sum()
        self.good_reward += (rewards * (1 - bad)).sum()
        self.bad_reward += (rewards * bad).sum()
        self.divergence += kl.double() * len(rewards)

    @property
    def units(self) -> int:
        """What the loss is the mean over."""
        return self.answers

    def facts(self) -> dict[str, float]:
        """Return the sums."""
        return {name: float(value) for name, value in asdict(self).items()}

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
    """Put packed rows into a batch, with which answers are bad and the mismatched documents of the same rows."""

    def __init__(self, rows: PackedRows, layout: Any, reference: list[np.ndarray], mismatched: MismatchedCollator):
        super().__init__(rows, layout, reference)
        self._mismatched = mismatched

    def __call__(self, indices: list[int]) -> dict[str, Any]:
        """Return the batch of the rows ``indices``."""
        rejected = torch.from_numpy(np.concatenate([self._rows.rejected(row) for row in indices]))
        batch = super().__call__(indices) | {"rejected": rejected}
        return batch | ({"mismatched": self._mismatched(indices)} if len(self._mismatched) else {})


class UnpairedTrainer(ReferencedTrainer):
    """Trainer of single answers by the loss of KTO.

    The KL term of a step is estimated over all of its mismatched documents, without a gradient and without dropout,
    before its first backward pass: it is the same however the step is divided into batches. TRL estimates one for each
    batch, which is the same where a step is one batch.
    """

    tally_kind = AnswerTally

    def __init__(self, *args, loss: UnpairedLoss, is_sample: bool = False, **kwargs):
        """Take what ReferencedTrainer takes and the loss of an answer, and compute the reference or remember it.

        Rows that are a sample of those of a training, to measure its speed, may hold one kind of answers.
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
            self._kl = self._estimate(map(self._prepare_inputs, found))
        return samples, units

    @torch.no_grad()
    def _estimate(self, batches: Any) -> torch.Tensor:
        """Return the mean log-ratio of policy and reference over mismatched documents, in nats, at least 0."""
        total, count = torch.zeros((), dtype=torch.float64, device=self.args.device), 0
        model = self._model()
        was_training = model.training
        model.eval()
        with self._plainly():
            for batch in batches:
                total += (document_log_probs(model, batch) - batch["reference"]).double().sum()
                count += len(batch["sizes"])
        model.train(was_training)
        return (total / max(count, 1)).float().clamp(min=0)

    def held_out_measures(self) -> dict[str, float]:
        """Return the mean loss of the held-out answers and their rewards; the KL term is that of all of them."""
        kept = self._kl
        found = self._batches(self._held_out_collator, range(len(self._held_out)), self._eval_rows)
        self._kl = self._estimate(batch["mismatched"] for batch in found if "mismatched" in batch)
        try:
            return super().held_out_measures()
        finally:
            self._kl = kept
