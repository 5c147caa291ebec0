"""Reference log-probabilities for preference training: those of the policy before its first step.

They are computed once for all rows, before anything is trained or a checkpoint is loaded, with the model that is then
trained: a second model never takes memory.
"""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from snaketune.core.errors import TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.batches import BatchLayout
from snaketune.train.preference.answer_trainer import AnswerTrainer
from snaketune.train.preference.dpo import locate_documents, sum_by_document
from snaketune.train.row_order import RowCollator

# Constants rather than settings: another batch size can change the last bits of values that several runs share.
TOKENS_PER_PASS, TOKENS_PER_BLOCK = 1 << 13, 1 << 22
MODEL_INPUTS = ("input_ids", "position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


@dataclass(frozen=True, slots=True)
class ReferenceScores:
    """Reference log-probabilities of the documents of some rows.

    Attributes:
        log_probs: sum over the trained tokens of each document, in nats, float32, shape [documents].
        counts: documents of each row, int64, shape [rows].
    """

    log_probs: np.ndarray
    counts: np.ndarray

    def by_row(self) -> list[np.ndarray]:
        """Return the log-probabilities of each row's documents."""
        return np.split(self.log_probs, np.cumsum(self.counts)[:-1])


# Returns the value stored under a name, or computes and stores it.
Remember = Callable[[str, Callable[[], ReferenceScores]], ReferenceScores]


def compute_always(name: str, compute: Callable[[], ReferenceScores]) -> ReferenceScores:
    """Compute the reference without storing it."""
    return compute()


class PairCollator:
    """Collate packed rows into a batch, with the positions and reference log-probabilities of its documents.

    Args:
        reference: for each row the log-probabilities of its documents; None while they are being computed.
    """

    def __init__(self, rows: PackedRows, layout: BatchLayout, reference: list[np.ndarray] | None = None):
        self._collate, self._rows, self._reference = RowCollator(rows, layout), rows, reference

    def __call__(self, indices: list[int]) -> dict[str, Any]:
        """Return the batch of the rows ``indices``."""
        batch = self._collate(indices)
        batch |= locate_documents(batch, torch.from_numpy(self._rows.tokens[indices]).long())
        if self._reference is None:
            return batch
        return batch | {"reference": torch.from_numpy(np.concatenate([self._reference[row] for row in indices]))}


class ReferencedTrainer(AnswerTrainer):
    """Trainer of answers with a loss that depends on reference log-probabilities."""

    def __init__(self, *args, remember: Remember = compute_always, starts_from_adapter: bool = False, **kwargs):
        """Take the arguments of PackedTrainer and two more.

        Args:
            *args: of PackedTrainer.
            remember: stores and returns computed blocks of the reference.
            starts_from_adapter: whether the adapter on the model was trained before and so belongs to the reference.
            **kwargs: of PackedTrainer.
        """
        super().__init__(*args, **kwargs)
        self._remember, self._starts_from_adapter = remember, starts_from_adapter

    def _reference_of(self, name: str, rows: PackedRows, collator: Any, length: int) -> list[np.ndarray]:
        """Return the reference log-probabilities of each row's documents, stored a block of rows at a time.

        Args:
            name: prefix of the names that the blocks are stored under.
            rows: the packed rows.
            collator: collates row numbers into batches with the positions of their documents.
            length: tokens of a row.
        """
        step = max(1, TOKENS_PER_BLOCK // length)
        found: list[np.ndarray] = []
        for start in range(0, len(rows), step):
            block = range(start, min(start + step, len(rows)))
            compute = functools.partial(self._compute_reference, rows, block, collator)
            found += self._remember(f"{name}-{start}", compute).by_row()
        return found

    @torch.no_grad()
    def _compute_reference(self, rows: PackedRows, block: range, collator: Any) -> ReferenceScores:
        print(
            f"Computing reference log-probabilities of rows {block.start} to {block.stop - 1} of {len(rows)}.",
            flush=True,
        )
        model = self._model().eval()
        found, counts = [], []
        with self._as_reference(), self._plainly():
            for batch in self._batches(collator, block, max(1, TOKENS_PER_PASS // rows.row_length)):
                if self._hooks.stop_requested():
                    raise TrainingError(
                        "stopped while computing the reference log-probabilities: finished blocks are kept; run the "
                        "same command to continue."
                    )
                found.append(document_log_probs(model, batch).cpu().numpy())
                counts += [len(rows.documents(row)) for row in batch["facts"].rows]
        model.train()
        return ReferenceScores(np.concatenate(found), np.array(counts))

    @contextlib.contextmanager
    def _plainly(self):
        """Compute in training's precision, but without compiling for shapes that training does not have."""
        with torch.compiler.set_stance("force_eager"), self.accelerator.autocast():
            yield

    def _as_reference(self) -> contextlib.AbstractContextManager[Any]:
        model: Any = self._model()
        # A fresh adapter adds zero (B starts at 0). Without it the reference is the same, bit for bit, for any rank.
        is_fresh = hasattr(model, "disable_adapter") and not self._starts_from_adapter
        return model.disable_adapter() if is_fresh else contextlib.nullcontext()


def document_log_probs(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the summed log-probability of each document's trained tokens, in nats, shape [documents]."""
    return sum_by_document(token_log_probs(model, batch), batch["owners"], len(batch["sizes"]))


def token_log_probs(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the log-probability of each token that ``places`` and ``targets`` select, in nats, shape [tokens]."""
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    return model(**inputs, places=batch["places"], targets=batch["targets"])["log_probs"]
