"""Base of the preference trainers: losses of answers in packed rows, and metrics of how the answers are ranked."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from snaketune.core.errors import TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.preference.dpo import install_log_probs
from snaketune.train.trainer import PackedTrainer


@dataclass(slots=True)
class Sums:
    """Sums over the answers of an interval; they stay on the device to avoid synchronising with it."""

    def facts(self) -> dict[str, float]:
        """Return the sums."""
        return {name: float(value) for name, value in asdict(self).items()}


@dataclass(slots=True)
class PairSums(Sums):
    """Number of pairs, summed margins between their answers, and how many of them are ranked right."""

    pairs: int = 0
    margin: Any = 0.0
    rewarded: Any = 0.0

    @property
    def units(self) -> int:
        """The number of losses that the mean is taken over."""
        return self.pairs


@dataclass(slots=True)
class Tally(PairSums):
    """Sums over pairs that are ranked by reward and by log-probability."""

    preferred: Any = 0.0

    def add(self, margins: torch.Tensor, differences: torch.Tensor) -> None:
        """Add pairs with their reward margins and the differences of their log-probabilities."""
        self.pairs += len(margins)
        # In float64: the interval may hold thousands of pairs, and the sums go through a checkpoint.
        self.margin += margins.double().sum()
        self.rewarded += (margins > 0).double().sum()
        self.preferred += (differences > 0).double().sum()

    def means(self) -> dict[str, float]:
        """Return the mean reward margin and the fractions of pairs ranked right by reward and by log-probability."""
        count = max(self.pairs, 1)
        return {
            "reward_margin": float(self.margin) / count,
            "reward_accuracy": float(self.rewarded) / count,
            "preference_accuracy": float(self.preferred) / count,
        }


class AnswerTrainer(PackedTrainer):
    """Trainer of answers: the loss of an optimizer step is the mean over its pairs, however they are packed into rows.

    Subclasses define the loss of each pair, or answer, in :meth:`_losses`.
    """

    # compute_loss divides by the number of losses of the whole step: Trainer must not divide by micro-batches again.
    loss_is_scaled_for_ga = True
    tally_kind: type = Tally
    data_collator: Any
    _held_out_collator: Any

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._tally = self.tally_kind()
        self._install(self._model())

    def _install(self, model: Any) -> None:
        """Give the model the forward pass that the losses use."""
        install_log_probs(model)

    def _losses(self, model: Any, batch: dict[str, Any], tally: Any) -> torch.Tensor:
        """Return the loss of each pair, or answer, of the batch, and add its ranking metrics to ``tally``."""
        raise NotImplementedError

    def _units(self, batch: dict[str, Any]) -> int:
        """Return the number of losses of a batch: one per pair."""
        return len(batch["sizes"]) // 2

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the sum of the batch's losses over their number in the optimizer step."""
        losses = self._losses(model, inputs, self._tally)
        # num_items_in_batch counts the losses of all ranks, and DDP and FSDP average gradients over ranks: without the
        # factor the gradient would be divided by the number of ranks twice.
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log values; a training loss is logged with the ranking metrics of its interval."""
        if "loss" in logs:
            logs |= self._tally.means()
            self._tally = self.tally_kind()
        super().log(logs, start_time)

    @torch.no_grad()
    def held_out_measures(self) -> dict[str, float]:
        """Return mean loss and ranking metrics of the held-out answers; an empty dictionary if interrupted."""
        model, tally = self._model().eval(), self.tally_kind()
        total: Any = 0.0
        for batch in self._batches(self._held_out_collator, range(len(self._held_out)), self._eval_rows):
            if self._is_interrupted():
                break
            with self.accelerator.autocast():
                losses = self._losses(model, batch, tally)
            total = total + losses.sum().double()
        model.train()
        if self._is_interrupted():
            return {}
        return {
            "eval_loss": float(total) / tally.units,
            **{f"eval_{name}": value for name, value in tally.means().items()},
        }

    @property
    def _eval_rows(self) -> int:
        return self.args.per_device_eval_batch_size

    def restore_interval(self) -> None:
        """Restore running loss and metrics of the log interval that the checkpoint was written in."""
        super().restore_interval()
        if self._resumed:
            # A checkpoint stores plain numbers; counts have to be integers again.
            kinds = {name: type(value) for name, value in asdict(self.tally_kind()).items()}
            tally = self._resumed["interval_tally"]
            self._tally = self.tally_kind(**{name: kinds[name](value) for name, value in tally.items()})

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), "interval_tally": self._tally.facts()}

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        units = sum(self._units(batch) for batch in batch_samples)
        # Created on the device: copying a host value there would wait for the queued work.
        return self.accelerator.gather(torch.full((), units, device=device)).sum()

    def _batches(self, collator: Any, rows: range, size: int) -> Iterator[dict[str, Any]]:
        for start in range(rows.start, rows.stop, size):
            yield self._prepare_inputs(collator(list(range(start, min(start + size, rows.stop)))))


def require_pairs(rows: PackedRows, method: str) -> None:
    """Require that the documents of the first row are pairs; a file holds only pairs or no pairs.

    Raises:
        TrainingError: if they are not pairs.
    """
    records = [document.record for document in rows.documents(0)] if len(rows) else []
    if records[0::2] != records[1::2]:
        raise TrainingError(
            f"train.method: {method} needs rows of chosen and rejected answers, but these hold single documents: set"
            " data.format to preference and run the same command again, or set train.method to sft."
        )
