"""The reference of a training on preferences: what the policy gives the answers before its first step.

It is computed once, over all rows, with the weights that are there, before anything is trained or a checkpoint is
loaded: no second model ever takes memory.
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
from snaketune.train.batches import Layout
from snaketune.train.preference.answer_trainer import AnswerTrainer
from snaketune.train.preference.dpo import locate_documents, sum_by_document
from snaketune.train.row_order import RowCollator

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


class ReferencedTrainer(AnswerTrainer):
    """Trainer of answers whose loss knows what the reference gives them."""

    def __init__(self, *args, remember: Remember = compute_always, starts_from_adapter: bool = False, **kwargs):
        """Take what PackedTrainer takes.

        Args:
            remember: keeps what was computed of the reference.
            starts_from_adapter: whether the adapter on the model already learned something and so is part of the
                reference.
        """
        super().__init__(*args, **kwargs)
        self._remember, self._starts_from_adapter = remember, starts_from_adapter

    def _reference_of(self, name: str, rows: PackedRows, collator: Any, length: int) -> list[np.ndarray]:
        """Return the reference's log-probabilities of each row's documents, remembered a block of rows at a time.

        Args:
            name: of what is computed, beside which it is kept.
            collator: makes batches of row numbers, with where their documents are.
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
    def _compute_reference(self, rows: PackedRows, block: range, collator: Any) -> Reference:
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
        return Reference(np.concatenate(found), np.array(counts))

    @contextlib.contextmanager
    def _plainly(self):
        """Compute as in training, but without compiling for shapes that training does not have."""
        with torch.compiler.set_stance("force_eager"), self.accelerator.autocast():
            yield

    def _as_reference(self) -> contextlib.AbstractContextManager[Any]:
        model: Any = self._model()
        is_fresh = hasattr(model, "disable_adapter") and not self._starts_from_adapter
        return model.disable_adapter() if is_fresh else contextlib.nullcontext()


def document_log_probs(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the log-probability of the trained tokens of each document in a batch, in nats, shape [documents]."""
    return sum_by_document(token_log_probs(model, batch), batch["owners"], len(batch["sizes"]))


def token_log_probs(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the log-probability of each token that the batch asks for, in nats, shape [tokens]."""
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    return model(**inputs, places=batch["places"], targets=batch["targets"])["log_probs"]
