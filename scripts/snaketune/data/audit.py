"""The mask audit: what is trained in each row, and what must never reach a training."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snaketune.common.errors import DataError


@dataclass(frozen=True, slots=True)
class Limits:
    """What the model and its tokenizer allow.

    Attributes:
        vocab_size: rows of the model's embedding; every id must be below.
        bos_id: the token that must not stand twice at the beginning, or None.
        end_ids: the tokens that can end a turn, ascending, shape [n].
    """

    vocab_size: int
    bos_id: int | None
    end_ids: np.ndarray


@dataclass(slots=True)
class Audit:
    """Counts over the rows of one split.

    Attributes:
        rows: rows with something to train.
        fewest, most: trained tokens of the row that has fewest and most.
        ends: trained tokens that end a turn.
        rows_without_end: rows in which no end of turn is trained.
    """

    rows: int = 0
    fewest: int = 0
    most: int = 0
    ends: int = 0
    rows_without_end: int = 0

    def add(self, other: "Audit") -> None:
        """Take in the counts of other rows of the same split."""
        counted = [audit.fewest for audit in (self, other) if audit.rows]
        self.fewest = min(counted, default=0)
        self.most = max(self.most, other.most)
        self.rows += other.rows
        self.ends += other.ends
        self.rows_without_end += other.rows_without_end

    def check(self, place: str, end_ids: np.ndarray) -> None:
        """Refuse a split of which no row teaches the model to stop.

        Raises:
            DataError: if the tokenizer has tokens that can end a turn and not one of them is trained.
        """
        if self.rows and len(end_ids) and not self.ends:
            raise DataError(
                f"{place}: no end of turn is trained in any of its {self.rows} rows, so the model would never stop:"
                " let the chat template write eos_token after the answer, inside {% generation %} if it has that"
                " (tokens.chat_template)."
            )

    def facts(self) -> dict[str, Any]:
        """Return the counts as facts for the manifest."""
        return {
            "trainable_tokens_fewest": self.fewest,
            "trainable_tokens_most": self.most,
            "end_of_turn_tokens_trained": self.ends,
            "rows_without_trained_end_of_turn": self.rows_without_end,
        }


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that are audited and written together.

    Attributes:
        ids, mask: of all rows, concatenated.
        offsets: where each row begins and the last one ends, shape [rows + 1].
        records: line of each row in the split's file, from 0.
    """

    ids: np.ndarray
    mask: np.ndarray
    offsets: np.ndarray
    records: list[int] = field(default_factory=list)


def audit(rows: Rows, limits: Limits, place: str) -> Audit:
    """Count and check ``rows``, each of which has a trained token.

    Args:
        place: name of the split's file, for the sentence of an error.

    Raises:
        DataError: naming the first row with a token outside the vocabulary or with two tokens that begin a text.
    """
    if not rows.records:
        return Audit()
    starts = rows.offsets[:-1]
    if bad := _first_row(rows, (rows.ids < 0) | (rows.ids >= limits.vocab_size)):
        row, token = bad
        raise DataError(
            f"{place} line {row}: its text gives the token {token}, and the model has only {limits.vocab_size} tokens:"
            " the tokenizer belongs to another model; use the one that came with the weights."
        )
    second = np.minimum(starts + 1, rows.offsets[1:] - 1)
    doubled = (rows.ids[starts] == limits.bos_id) & (rows.ids[second] == limits.bos_id) & (second > starts)
    if limits.bos_id is not None and doubled.any():
        raise DataError(
            f"{place} line {rows.records[int(np.argmax(doubled))] + 1}: the text begins with its first token twice:"
            " take one of the two bos_token out of the chat template (tokens.chat_template)."
        )
    trained = np.add.reduceat(rows.mask, starts, dtype=np.int64)
    is_end = np.isin(rows.ids, limits.end_ids) & (rows.mask == 1)
    ends = np.add.reduceat(is_end, starts, dtype=np.int64)
    return Audit(len(starts), int(trained.min()), int(trained.max()), int(ends.sum()), int((ends == 0).sum()))


def _first_row(rows: Rows, wrong: np.ndarray) -> tuple[int, int] | None:
    """Return line number (from 1) and token id of the first token that is ``wrong``."""
    if not wrong.any():
        return None
    at = int(np.argmax(wrong))
    return rows.records[int(np.searchsorted(rows.offsets, at, side="right")) - 1] + 1, int(rows.ids[at])
