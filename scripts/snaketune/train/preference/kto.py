"""KTO on packed rows: the loss of single answers labelled good or bad, and the mismatched pairs for its KL term."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from snaketune.core.errors import DataError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.batches import IGNORED, BatchLayout, with_boundaries
from snaketune.train.preference.dpo import locate_documents
from snaketune.train.row_order import RowCollator


@dataclass(frozen=True, slots=True)
class UnpairedLoss:
    """The loss of single answers of Ethayarajh et al. 2024 (arXiv:2402.01306), equation 7.

    Attributes:
        beta: keeps the policy near the reference.
        desirable_weight, undesirable_weight: weights of the losses of good and of bad answers.
    """

    beta: float
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __call__(self, ratios: torch.Tensor, kl: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        """Return the loss of each answer, shape [documents].

        Args:
            ratios: log-ratio of policy to reference of each answer in nats, shape [documents].
            kl: estimated divergence of the policy from the reference in nats, at least 0, shape [].
            rejected: whether an answer is labelled bad, bool, shape [documents].
        """
        # kl is the reference point z0 of their value function and carries no gradient. The sigmoid saturates: answers
        # far on the right or on the wrong side of it hardly pull.
        good = self.desirable_weight * (1 - torch.sigmoid(self.beta * (ratios - kl)))
        bad = self.undesirable_weight * (1 - torch.sigmoid(self.beta * (kl - ratios)))
        return torch.where(rejected, bad, good)


class Mismatched:
    """Prompts paired with the answer to another prompt, from which KTO's KL term is estimated.

    Documents are ordered by record, whatever rows they are in: each gets the answer of the record before it, the first
    that of the last. An answer that is too long for its new prompt is truncated at the length of a row.
    """

    def __init__(self, rows: PackedRows):
        self._rows = rows
        places = [(row, document) for row in range(len(rows)) for document in rows.documents(row)]
        counts = [len(rows.documents(row)) for row in range(len(rows))]
        self._firsts = np.cumsum([0, *counts]).tolist()
        self._spots = [(row, document.start, document.length) for row, document in places]
        self._partners = partners([document.record for _, document in places])

    def __len__(self) -> int:
        """Return the number of mismatched documents: one per document, or 0 if all are of one record."""
        return len(self._partners)

    def of_rows(self, indices: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return token ids and loss mask of the mismatched documents of some rows."""
        numbers = [number for row in indices for number in range(self._firsts[row], self._firsts[row + 1])]
        return [self._document(number) for number in numbers] if len(self) else []

    def _document(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        ids, mask = self._tokens(number)
        other_ids, other_mask = self._tokens(self._partners[number])
        # The first trained token is where the answer begins: prompt of this document, answer of the other.
        begin, other = int(mask.argmax()), int(other_mask.argmax())
        room = self._rows.row_length
        return (
            np.concatenate([ids[:begin], other_ids[other:]])[:room],
            np.concatenate([mask[:begin], other_mask[other:]])[:room],
        )

    def _tokens(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        row, start, length = self._spots[number]
        ids, mask = (self._rows.take(name, [row])[0] for name in ("input_ids", "loss_mask"))
        return ids[start : start + length], mask[start : start + length]


def partners(records: Sequence[int]) -> list[int]:
    """Return for each document the one whose answer its prompt gets; an empty list if all are of one record."""
    numbers = np.asarray(records)
    # By record instead of by row: the partners then do not depend on how documents were packed.
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    if len(found) < 2:
        return []
    groups = np.split(order, starts[1:])
    partner = np.empty(len(records), np.int64)
    for before, group in zip([groups[-1], *groups[:-1]], groups, strict=True):
        partner[group] = before[np.minimum(np.arange(len(group)), len(before) - 1)]
    return partner.tolist()


def pack_kto_rows(
    documents: Sequence[tuple[np.ndarray, np.ndarray]], length: int
) -> tuple[dict[str, Any], torch.Tensor]:
    """Pack documents into rows of ``length`` tokens, in order; return the batch and the tokens of each row."""
    used: list[int] = []
    spots = []
    for ids, _ in documents:
        if not used or used[-1] + len(ids) > length:
            used.append(0)
        spots.append((len(used) - 1, used[-1]))
        used[-1] += len(ids)
    batch = {
        "input_ids": torch.zeros(len(used), length, dtype=torch.int64),
        "labels": torch.full((len(used), length), IGNORED),
        "position_ids": torch.zeros(len(used), length, dtype=torch.int64),
    }
    for (ids, mask), (row, start) in zip(documents, spots, strict=True):
        part = slice(start, start + len(ids))
        tokens = torch.from_numpy(ids.astype("int64"))
        batch["input_ids"][row, part] = tokens
        batch["labels"][row, part] = tokens.masked_fill(torch.from_numpy(mask == 0), IGNORED)
        batch["position_ids"][row, part] = torch.arange(len(ids))
    for row, count in enumerate(used):
        # Padding restarts positions, like a document of its own: no document attends to it.
        batch["position_ids"][row, count:] = torch.arange(length - count)
    return batch, torch.tensor(used)


class MismatchedCollator:
    """Collate the mismatched documents of some rows into a batch, with their reference log-probabilities.

    Args:
        reference: for each row the log-probabilities of its documents; None while they are being computed.
    """

    def __init__(self, rows: PackedRows, layout: BatchLayout, reference: list[np.ndarray] | None = None):
        self._found, self._rows, self._layout, self._reference = Mismatched(rows), rows, layout, reference
        self._facts = RowCollator(rows, layout)

    def __len__(self) -> int:
        """Return the number of mismatched documents."""
        return len(self._found)

    def with_reference(self, reference: list[np.ndarray]) -> "MismatchedCollator":
        """Add the computed reference log-probabilities to all further batches, and return the collator."""
        self._reference = reference
        return self

    def __call__(self, indices: list[int]) -> dict[str, Any]:
        """Return the batch of the rows ``indices``."""
        batch, tokens = pack_kto_rows(self._found.of_rows(indices), self._rows.row_length)
        found = batch | locate_documents(batch, tokens)
        if self._layout.boundaries:
            found |= {name: value for name, value in with_boundaries(batch).items() if name not in found}
        if self._reference is None:
            return found | {"facts": self._facts(indices)["facts"]}
        return found | {"reference": torch.from_numpy(np.concatenate([self._reference[row] for row in indices]))}


def require_answers(rows: PackedRows, mismatched: MismatchedCollator) -> None:
    """Require good and bad answers, from more than one record.

    Raises:
        DataError: if the rows do not hold them.
    """
    kinds = {bool(one) for row in range(len(rows)) for one in rows.rejected(row)}
    if len(kinds) < 2:
        raise DataError(
            f"train.method: kto learns from good and from bad answers, and all answers of train.arrow are"
            f" {'bad' if True in kinds else 'good'}: add some of the other kind, or set train.method to sft."
        )
    if not len(mismatched):
        raise DataError(
            "train.method: kto estimates a divergence from answers to other prompts, and train.arrow holds a single"
            " record: give more."
        )
