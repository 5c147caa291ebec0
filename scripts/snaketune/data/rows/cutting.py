"""Cutting, truncation or removal of documents longer than a row.

A plain text longer than a row is cut into pieces of a row's length, as in continued pretraining, so that no token is
lost. Each piece begins with the last token of the piece before it, as context without loss: the first token of a row
has nothing to be predicted from, and with this overlap of one every token is trained exactly once. Pieces are separate
documents: none attends to another, and positions restart at 0. The first piece has the tokenizer's start-of-sequence
token and the last one the end-of-sequence token, as in the uncut text.

Any other document longer than a row is dropped or, with ``on_too_long: truncate``, loses its end: start of sequence,
system message and question stay, so the rest keeps its meaning. It is dropped anyway if no answer token is left.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Documents(Protocol):
    """Tokenised documents: what a :class:`~snaketune.data.tokens.token_store.TokenStore` offers."""

    records: np.ndarray
    seconds: np.ndarray

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids and the loss mask of document ``index``."""
        ...


class MeasuredDocuments(Documents, Protocol):
    """Documents with the arrays that determine how they are cut."""

    lengths: np.ndarray
    plain: np.ndarray
    firsts: np.ndarray


@dataclass(frozen=True, slots=True)
class Sizes:
    """The properties that determine how documents are cut; arrays of shape [documents].

    Attributes:
        lengths: tokens of each document, int32.
        plain: whether it is plain text, bool.
        firsts: position of its first loss-bearing token, int32.
    """

    lengths: np.ndarray
    plain: np.ndarray
    firsts: np.ndarray

    @classmethod
    def of(cls, documents: MeasuredDocuments) -> "Sizes":
        """Return the sizes of tokenised documents."""
        return cls(documents.lengths, documents.plain, documents.firsts)

    @classmethod
    def of_conversations(cls, lengths: np.ndarray) -> "Sizes":
        """Return the sizes of conversations of these lengths, trained from the second token on."""
        return cls(lengths, np.zeros(len(lengths), bool), np.ones(len(lengths), np.int32))


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces of documents, in the order of the documents; arrays of shape [pieces].

    Attributes:
        documents: index of the document of each piece, int64, ascending.
        starts: its first token in the document, int64.
        stops: one past its last token, int64.
    """

    documents: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each piece, int64."""
        found: np.ndarray = self.stops - self.starts
        return found

    def counts(self) -> dict[str, int]:
        """Return the numbers of documents, of pieces, and of tokens repeated as context of the next piece."""
        # Only a piece that continues another one starts past 0, and each of these repeats one token.
        repeated = int(np.count_nonzero(self.starts))
        return {"documents": len(self) - repeated, "pieces": len(self), "tokens_repeated": repeated}


def cut(sizes: Sizes, row_length: int, on_too_long: str) -> Pieces:
    """Return the pieces that go into rows of ``row_length`` tokens (2 or more); a dropped document has none."""
    lengths = sizes.lengths.astype(np.int64)
    longer = lengths > row_length
    stays = ~longer | sizes.plain
    # A truncated document must keep at least one loss-bearing token.
    if on_too_long == "truncate":
        stays |= sizes.firsts < row_length
    # Consecutive pieces overlap by one token: n of them cover n * (row_length - 1) + 1 tokens.
    counts = np.where(longer & sizes.plain, -(-(lengths - 1) // (row_length - 1)), 1) * stays
    documents = np.repeat(np.arange(len(lengths)), counts)
    numbers = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = numbers * (row_length - 1)
    return Pieces(documents, starts, np.minimum(starts + row_length, lengths[documents]))


class CutDocuments:
    """Pieces of tokenised documents, presented as documents that fit a row.

    Attributes:
        records: line of each piece's record in the split's file, int64 [pieces].
        seconds: position at which the second document of a pair begins; 0 for a single document, int32 [pieces].
    """

    def __init__(self, documents: Documents, pieces: Pieces):
        self._documents, self._pieces = documents, pieces
        self.records = documents.records[pieces.documents]
        self.seconds = documents.seconds[pieces.documents]

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids and the loss mask of piece ``index``; the first token of a row never bears loss."""
        ids, mask = self._documents.document(int(self._pieces.documents[index]))
        start, stop = int(self._pieces.starts[index]), int(self._pieces.stops[index])
        return ids[start:stop], mask[start:stop]
