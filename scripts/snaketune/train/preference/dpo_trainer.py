"""DPO as a variation of :class:`PackedTrainer`: pairs in the batches, their loss, and how they are ranked.

The reference is the policy before its first step. It is computed once, over all rows, with the weights that are
there, before anything is trained or a checkpoint is loaded: no second model ever takes memory.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from snaketune.core.errors import TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.batches import Layout
from snaketune.train.preference.dpo import PreferenceLoss, install_log_probs, locate_documents, sum_by_document
from snaketune.train.row_order import RowCollator
from snaketune.train.trainer import PackedTrainer

# Both are fixed: another batch can change the last bits of what runs share.
TOKENS_PER_PASS, TOKENS_PER_BLOCK = 1 << 13, 1 << 22
MODEL_INPUTS = ("input_ids", "position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


@dataclass(frozen=True, slots=True)
class Reference:
    """What the reference gives the documents of some rows.

    Attributes:
        log_probs: of the trained tokens of each document, in nats, float32, shape [documents].
        counts: documents of each row, int64, shape [rows].
    """

    log_probs: np.ndarray
    counts: np.ndarray

    def by_row(self) -> list[np.ndarray]:
        """Return the log-probabilities of each row's documents."""
        return np.split(self.log_probs, np.cumsum(self.counts)[:-1])


# Gives what is kept under a name, or computes and keeps it.
Remember = Callable[[str, Callable[[], Reference]], Reference]


def compute_always(name: str, compute: Callable[[], Reference]) -> Reference:
    """Compute the reference without keeping it anywhere."""
    return compute()


class PairCollator:
    """Put packed rows into a batch, with where its documents are and what the reference gives them.

    Args:
        reference: for each row its documents' log-probabilities; None where they are about to be computed.
    """

    def __init__(self, rows: PackedRows, layout: Layout, reference: list[np.ndarray] | None = None):
        self._collate, self._rows, self._reference = RowCollator(rows, layout), rows, reference

    def __call__(self, indices: list[int]) -> dict[str, Any]:
        """Return the batch of the rows ``indices``."""
        batch = self._collate(indices)
        batch |= locate_documents(batch, torch.from_numpy(self._rows.tokens[indices]).long())
        if self._reference is None:
            return batch
        return batch | {"reference": torch.from_numpy(np.concatenate([self._reference[row] for row in indices]))}


@dataclass(slots=True)
class Tally:
    """How pairs were ranked; sums stay on the device, so that counting does not wait for it."""

    pairs: int = 0
    margin: Any = 0.0
    rewarded: Any = 0.0
    preferred: Any = 0.0

    def add(self, margins: torch.Tensor, differences: torch.Tensor) -> None:
        """Count pairs with their reward margins and the differences of their log-probabilities."""
        self.pairs += len(margins)
        self.margin += margins.double().sum()
        self.rewarded += (margins > 0).double().sum()
        self.preferred += (differences > 0).double().sum()

    def facts(self) -> dict[str, float]:
        """Return the sums."""
        return {name: float(value) for name, value in asdict(self).items()}

    def means(self) -> dict[str, float]:
        """Return the mean reward margin and the fractions of pairs that rewards and log-probabilities rank right."""
        count = max(self.pairs, 1)
        return {
            "reward_margin": float(self.margin) / count,
            "reward_accuracy": float(self.rewarded) / count,
            "preference_accuracy": float(self.preferred) / count,
        }


class PreferenceTrainer(PackedTrainer):
    """Trainer of pairs; the loss of an optimizer step is the mean over its pairs, however they fall into rows."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args,
        loss: PreferenceLoss,
        remember: Remember = compute_always,
        starts_from_adapter: bool = False,
        **kwargs,
    ):
        """Take what PackedTrainer takes, and compute what the reference gives all rows or remember it.

        Args:
            loss: of a pair.
            remember: keeps what was computed.
            starts_from_adapter: whether the adapter on the model already learned something and so is part of the
                reference.
        """
        super().__init__(*args, **kwargs)
        self._pair_loss, self._tally, self._starts_from_adapter = loss, Tally(), starts_from_adapter
        install_log_probs(self._model())
        trained: Any = self.train_dataset
        rows = {"train": trained.rows, "eval": self._held_out}
        for part in rows.values():
            require_pairs(part)
        references = {split: self._reference_of(split, part, remember) for split, part in rows.items()}
        collators = {split: PairCollator(part, self._layout, references[split]) for split, part in rows.items()}
        self.data_collator, self._held_out_collator = collators["train"], collators["eval"]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the losses of the batch's pairs over the number of pairs in the optimizer step."""
        losses, margins, differences = self._score(model, inputs)
        self._tally.add(margins, differences)
        # Ranks average their gradients, and the pairs of all ranks were counted.
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; a training loss together with how the pairs of its interval are ranked."""
        if "loss" in logs:
            logs |= self._tally.means()
            self._tally = Tally()
        super().log(logs, start_time)

    @torch.no_grad()
    def held_out_measures(self) -> dict[str, float]:
        """Return the mean loss of the held-out pairs and how they are ranked; nothing when interrupted."""
        model, tally = self._model().eval(), Tally()
        total: Any = 0.0
        size = self.args.per_device_eval_batch_size
        for batch in self._batches(self._held_out_collator, range(len(self._held_out)), size):
            if self._is_interrupted():
                break
            with self.accelerator.autocast():
                losses, margins, differences = self._score(model, batch)
            tally.add(margins, differences)
            total = total + losses.sum().double()
        model.train()
        if self._is_interrupted():
            return {}
        return {
            "eval_loss": float(total) / tally.pairs,
            **{f"eval_{name}": value for name, value in tally.means().items()},
        }

    def restore_interval(self) -> None:
        """Take up the log interval that the checkpoint was written in."""
        super().restore_interval()
        if self._resumed:
            tally = self._resumed["interval_tally"]
            self._tally = Tally(**tally | {"pairs": int(tally["pairs"])})

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), "interval_tally": self._tally.facts()}

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        pairs = sum(len(batch["reference"]) // 2 for batch in batch_samples)
        # Filled on the device: a number that is copied there waits for what is queued.
        return self.accelerator.gather(torch.full((), pairs, device=device)).sum()

    def _score(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the loss, the reward margin and the difference of log-probability of each pair."""
        policy = document_log_probs(model, batch)
        losses, margins = self._pair_loss(policy, batch["reference"], batch["sizes"])
        return losses, margins.detach(), (policy[0::2] - policy[1::2]).detach()

    def _reference_of(self, split: str, rows: PackedRows, remember: Remember) -> list[np.ndarray]:
        """Return the reference's log-probabilities of each row's documents, remembered a block of rows at a time."""
        step = max(1, TOKENS_PER_BLOCK // rows.row_length)
        found: list[np.ndarray] = []
        for start in range(0, len(rows), step):
            block = range(start, min(start + step, len(rows)))
            compute = functools.partial(self._compute_reference, rows, block)
            found += remember(f"{split}-{start}", compute).by_row()
        return found

    @torch.no_grad()
    def _compute_reference(self, rows: PackedRows, block: range) -> Reference:
        print(f"Computing the reference of rows {block.start} to {block.stop - 1} of {len(rows)}.", flush=True)
        model, collator = self._model().eval(), PairCollator(rows, self._layout)
        found, counts = [], []
        with self._as_reference(), torch.compiler.set_stance("force_eager"), self.accelerator.autocast():
            for batch in self._batches(collator, block, max(1, TOKENS_PER_PASS // rows.row_length)):
                if self._hooks.stop_requested():
                    raise TrainingError(
                        "told to stop while the reference was computed: its finished blocks are kept, run the same"
                        " command to go on."
                    )
                found.append(document_log_probs(model, batch).cpu().numpy())
                counts += [len(rows.documents(row)) for row in batch["facts"].rows]
        model.train()
        return Reference(np.concatenate(found), np.array(counts))

    def _as_reference(self) -> contextlib.AbstractContextManager:
        model: Any = self._model()
        is_fresh = hasattr(model, "disable_adapter") and not self._starts_from_adapter
        return model.disable_adapter() if is_fresh else contextlib.nullcontext()

    def _batches(self, collator: PairCollator, rows: range, size: int) -> Iterator[dict[str, Any]]:
        for start in range(rows.start, rows.stop, size):
            yield self._prepare_inputs(collator(list(range(start, min(start + size, rows.stop)))))


def document_log_probs(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the log-probability of the trained tokens of each document in a batch, in nats, shape [documents]."""
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    found = model(**inputs, places=batch["places"], targets=batch["targets"])["log_probs"]
    return sum_by_document(found, batch["owners"], len(batch["sizes"]))


def require_pairs(rows: PackedRows) -> None:
    """Check that the documents of the first row are pairs; rows hold nothing but pairs or none at all.

    Raises:
        TrainingError: if they are not.
    """
    records = [document.record for document in rows.documents(0)] if len(rows) else []
    if records[0::2] != records[1::2]:
        raise TrainingError(
            "train.method: dpo needs rows of chosen and rejected answers and these hold single documents: set"
            " data.format to preference and run the same command again, or set train.method to sft."
        )
