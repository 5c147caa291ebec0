"""Likelihoods of the held-out documents: one sum per document, from which intervals can be computed."""

from array import array
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.models import ModelSettings
from snaketune.evaluate.scoring import PositionChunk, scored_chunks

NO_TEXTS = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """A model's likelihood of each packed document, in the order of the records; all arrays have shape [documents].

    A text that is in several rows is one document.

    Attributes:
        records: index of the document's record.
        lengths: tokens of the document in its rows.
        tokens: tokens that bear loss.
        nll: summed negative log-likelihood of those, in nats, float64.
        correct: how many of those are the model's most likely token.
        rejected: whether the document is a bad answer; in a pair the chosen one comes right before it.
    """

    records: np.ndarray
    lengths: np.ndarray
    tokens: np.ndarray
    nll: np.ndarray
    correct: np.ndarray
    rejected: np.ndarray

    def without_rejected(self) -> "Likelihoods":
        """Return the likelihoods of single documents and of chosen answers alone."""
        return Likelihoods(*(getattr(self, field.name)[~self.rejected] for field in fields(self)))


def measure_likelihood(
    model: Any, rows: PackedRows, settings: ModelSettings, pairs: bool = True, texts: np.ndarray = NO_TEXTS
) -> Likelihoods:
    """Return the likelihoods of all documents in ``rows``.

    Memory holds one batch, one chunk of logits and a few numbers per document, however many there are.

    Args:
        model: a causal language model, with its adapter if it has one.
        rows: packed rows.
        settings: how the model was loaded.
        pairs: whether two documents of one record are a chosen and a rejected answer, and single ones may be bad
            answers; else they are examples of answers of one conversation.
        texts: records of plain text, int64: all documents of one are its pieces, and count as one document.
    """
    index = _DocumentIndex(rows, pairs)
    tokens, correct = np.zeros((2, index.size), np.int64)
    nll = np.zeros(index.size)
    for chunk in scored_chunks(model, rows, settings):
        documents = index.at(chunk.rows, chunk.columns)
        losses, hits = token_scores(chunk)
        # add.at, because one document occurs many times in a chunk and plain indexing would count it once.
        np.add.at(tokens, documents, 1)
        np.add.at(nll, documents, losses)
        np.add.at(correct, documents, hits)
    # Stable: the two documents of a pair, and the pieces of a text, keep their order.
    order = np.argsort(index.records, kind="stable")
    records, rejected = index.records[order], index.rejected[order]
    firsts = np.flatnonzero((np.diff(records, prepend=-1) != 0) | ~np.isin(records, texts))
    # A later piece of a text begins with the last token of the one before it.
    repeated = np.diff(np.append(firsts, len(records))) - 1
    lengths, said, lost, right = (_summed(values[order], firsts) for values in (index.lengths, tokens, nll, correct))
    return Likelihoods(records[firsts], lengths - repeated, said, lost, right, rejected[firsts])


def _summed(values: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """Return the sums of the runs of ``values`` that begin at ``firsts``."""
    return np.add.reduceat(values, firsts) if len(firsts) else values


def token_scores(chunk: PositionChunk) -> tuple[np.ndarray, np.ndarray]:
    """Return the negative log-likelihood (nats, float64) and whether the best guess is right, both of shape [n]."""
    # Not logsumexp minus logit: for a confident model that difference of two large numbers is mostly rounding error.
    losses = torch.nn.functional.cross_entropy(chunk.logits, chunk.targets, reduction="none")
    hits = chunk.logits.argmax(dim=1) == chunk.targets
    return losses.cpu().numpy().astype(np.float64), hits.cpu().numpy().astype(np.int64)


class _DocumentIndex:
    """Maps a position in a row to its document."""

    def __init__(self, rows: PackedRows, pairs: bool):
        # Compact arrays: three numbers per document, without Python objects.
        numbers, rejected = array("q"), array("b")
        for row in range(len(rows)):
            for document in rows.documents(row):
                numbers.extend((document.record, document.length, row * rows.row_length + document.start))
            if pairs:
                rejected.extend(rows.rejected(row).tolist())
        self.records, self.lengths, self._starts = np.frombuffer(numbers, np.int64).reshape(-1, 3).T.copy()
        self.size = len(self.records)
        # A position is one number, row * row_length + column; documents are sorted by that of their first token.
        self._width = rows.row_length
        self.rejected = np.frombuffer(rejected, np.int8).astype(bool) if pairs else np.zeros(self.size, bool)

    def at(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the number of the document at each position."""
        return np.searchsorted(self._starts, rows * self._width + columns, side="right") - 1
