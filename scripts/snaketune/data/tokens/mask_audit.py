"""The mask audit: checks every row's loss mask before it is written.

A wrong mask trains without any error and shows only in the model's answers. The audit therefore shares no code with
the modules that make masks, and uses only ids and masks of finished rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snaketune.core.errors import DataError


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """Constraints set by the model, its tokenizer and its chat template.

    Attributes:
        vocab_size: rows of the model's embedding; every id must be smaller.
        bos_id: the token that must not occur twice at the beginning, or None.
        stop_ids: the tokens at which generation stops, ascending, shape [n].
        foreign_ids: the tokens that occur only in turns of roles other than the assistant, ascending, shape [n].
    """

    vocab_size: int
    bos_id: int | None
    stop_ids: np.ndarray
    foreign_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))


@dataclass(slots=True)
class Audit:
    """Counts over the rows of one split.

    Attributes:
        rows: number of rows.
        fewest, most: smallest and largest number of loss-bearing tokens in a row.
        ends: loss-bearing stop tokens.
        rows_without_end: rows without a loss-bearing stop token.
    """

    rows: int = 0
    fewest: int = 0
    most: int = 0
    ends: int = 0
    rows_without_end: int = 0

    def add(self, other: "Audit") -> None:
        """Add the counts of other rows of the same split."""
        # A split without rows has no minimum; its 0 must not become that of the sum.
        counted = [audit.fewest for audit in (self, other) if audit.rows]
        self.fewest = min(counted, default=0)
        self.most = max(self.most, other.most)
        self.rows += other.rows
        self.ends += other.ends
        self.rows_without_end += other.rows_without_end

    def check(self, place: str, stop_ids: np.ndarray) -> None:
        """Refuse a split in which no row teaches the model to stop.

        Raises:
            DataError: if the model has stop tokens but none of them bears loss.
        """
        if self.rows and len(stop_ids) and not self.ends:
            raise DataError(
                f"{place}: no end of turn is trained in any of its {self.rows} rows, so the model would never learn to "
                "stop: make the chat template write eos_token after the answer (tokens.chat_template)."
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
class AuditedRows:
    """Rows that are audited and written together.

    Attributes:
        ids, mask: token ids and loss masks of all rows, concatenated.
        offsets: where each row begins, and the end of the last one, shape [rows + 1].
        answers: number of trained answers in each row; 0 if everything is trained, shape [rows].
    """

    ids: np.ndarray
    mask: np.ndarray
    offsets: np.ndarray
    answers: np.ndarray


def audit(rows: AuditedRows, limits: TokenLimits, place: Callable[[int], str]) -> Audit:
    """Count and check ``rows``, each of which has a loss-bearing token.

    Args:
        rows: the rows to check.
        limits: the constraints of model and template.
        place: gives the place of a row's record, for error messages.

    Raises:
        DataError: for the first row with a token outside the vocabulary, with two bos tokens, with a trained segment
            that does not end at a stop token, or with a token of another role in one.
    """
    if not len(rows.answers):
        return Audit()
    starts = rows.offsets[:-1]
    if len(bad := np.flatnonzero((rows.ids < 0) | (rows.ids >= limits.vocab_size))):
        raise DataError(
            f"{place(_row_of(rows, bad[0]))}: its text contains token {rows.ids[bad[0]]}, but the model has only "
            f"{limits.vocab_size} tokens: the tokenizer belongs to another model; use the one that came with the "
            "weights."
        )
    # A doubled bos arises when both template and tokenizer add one; no model has seen that in pretraining.
    # For a row of one token this is the token itself, which ``second > starts`` excludes.
    second = np.minimum(starts + 1, rows.offsets[1:] - 1)
    doubled = (rows.ids[starts] == limits.bos_id) & (rows.ids[second] == limits.bos_id) & (second > starts)
    if limits.bos_id is not None and doubled.any():
        raise DataError(
            f"{place(int(np.argmax(doubled)))}: the text starts with bos_token twice: remove one of the two from the "
            "chat template (tokens.chat_template)."
        )
    trained = np.add.reduceat(rows.mask, starts, dtype=np.int64)
    # Stop tokens in prompts (most templates end every turn with the same one) are not counted.
    is_stop = np.isin(rows.ids, limits.stop_ids) & (rows.mask == 1)
    stops = np.add.reduceat(is_stop, starts, dtype=np.int64)
    _check_answers(rows, limits, is_stop, stops, place)
    return Audit(len(starts), int(trained.min()), int(trained.max()), int(stops.sum()), int((stops == 0).sum()))


def _check_answers(
    rows: AuditedRows, limits: TokenLimits, is_stop: np.ndarray, stops: np.ndarray, place: Callable[[int], str]
) -> None:
    """Check each trained segment of rows with answers."""
    # An edge is the last token of a trained segment: the mask falls from 1 to 0 after it, or its row ends. The mask is
    # int8, so that the difference can be negative.
    edges = np.diff(rows.mask, append=np.int8(0)) < 0
    edges[rows.offsets[1:] - 1] = rows.mask[rows.offsets[1:] - 1] == 1
    # Rows in which everything is trained (plain text) have no answers to check.
    checked = np.repeat(rows.answers > 0, np.diff(rows.offsets))
    wrong = np.flatnonzero(edges & ~is_stop & checked)
    if len(wrong):
        raise DataError(
            f"{place(_row_of(rows, wrong[0]))}: the trained part of an answer ends with the token {rows.ids[wrong[0]]},"
            " at which generation does not stop: choose another chat template (tokens.chat_template)."
        )
    # A stop token inside an answer would teach the model to stop early, a missing one never to stop.
    uneven = np.flatnonzero((rows.answers > 0) & (stops != rows.answers))
    if len(uneven):
        raise DataError(
            f"{place(int(uneven[0]))}: {stops[uneven[0]]} ends of turns are trained for {rows.answers[uneven[0]]}"
            " answers: choose another chat template (tokens.chat_template)."
        )
    # A span that runs on into the next answer ends with a stop token and may contain the right number of them: the
    # tokens of the header in between give it away.
    foreign = np.flatnonzero(np.isin(rows.ids, limits.foreign_ids) & (rows.mask == 1) & checked)
    if len(foreign):
        raise DataError(
            f"{place(_row_of(rows, foreign[0]))}: the token {rows.ids[foreign[0]]} of another role's turn is in the"
            " trained part of an answer: choose another chat template (tokens.chat_template)."
        )


def _row_of(rows: AuditedRows, token: np.integer) -> int:
    """Return the row of a token given by its index."""
    return int(np.searchsorted(rows.offsets, token, side="right")) - 1
