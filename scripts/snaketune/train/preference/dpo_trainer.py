"""DPO: batches of pairs with their reference log-probabilities, and their loss."""

from typing import Any

import torch

from snaketune.train.preference.answer_trainer import Tally, require_pairs
from snaketune.train.preference.dpo import PreferenceLoss
from snaketune.train.preference.reference import PairCollator, ReferencedTrainer, document_log_probs


class PreferenceTrainer(ReferencedTrainer):
    """Trainer of pairs by the loss of DPO."""

    def __init__(self, *args, loss: PreferenceLoss, **kwargs):
        """Take the arguments of ReferencedTrainer and the loss of a pair; compute or load the reference."""
        super().__init__(*args, **kwargs)
        self._pair_loss = loss
        trained: Any = self.train_dataset
        rows = {"train": trained.rows, "eval": self._held_out}
        for part in rows.values():
            require_pairs(part, "dpo")
        collators = {}
        for split, part in rows.items():
            found = self._reference_of(split, part, PairCollator(part, self._layout), part.row_length)
            collators[split] = PairCollator(part, self._layout, found)
        self.data_collator, self._held_out_collator = collators["train"], collators["eval"]

    def _losses(self, model: Any, batch: dict[str, Any], tally: Tally) -> torch.Tensor:
        losses, margins, differences = self._score(model, batch)
        tally.add(margins, differences)
        return losses

    def _score(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the loss, the reward margin and the difference of log-probability of each pair."""
        policy = document_log_probs(model, batch)
        losses, margins = self._pair_loss(policy, batch["reference"], batch["sizes"])
        return losses, margins.detach(), (policy[0::2] - policy[1::2]).detach()
