"""What goes into rows of each document: all of it, its beginning, or one piece after the other.

A plain text that is longer than a row is cut into pieces of a row's length, as continued pretraining does, so that
nothing of it is lost. A piece begins with the last token of the piece before it, as context that is not trained: the
first token of a row is predicted by nothing, and so each token is trained exactly once. Pieces are documents of their
own: none attends to another, and their positions begin at 0. The first one has the tokenizer's start of sequence and
the last one its end, as the uncut text would.

Everything else that is longer is dropped, or with ``on_too_long: truncate`` loses its end: start of sequence, system
message and question stay, so that what is left means what it did. Where that leaves no token of an answer, the document
is dropped all the same.
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
    """Documents with the arrays that decide how they are cut."""

    lengths: np.ndarray
    plain: np.ndarray
    firsts: np.ndarray


@dataclass(frozen=True, slots=True)
class Sizes:
    """What of documents decides how they are cut, arrays of shape [documents].

    Attributes:
        lengths: tokens of each, int32.
        plain: whether it is plain text, bool.
        firsts: its first token that is trained, int32.
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
        """Return the sizes of documents that are conversations, trained from their second token on."""
        return cls(lengths, np.zeros(len(lengths), bool), np.ones(len(lengths), np.int32))


@dataclass(frozen=True, slots=True)
class Pieces:
    """Parts of documents, in the order of the documents; arrays of shape [pieces].

    Attributes:
        documents: index of the document that each is of, int64, ascending.
        starts: its first token, int64.
        stops: the token after its last, int64.
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
        """Return how many documents they are of, how many pieces, and tokens that are in two as context."""
        repeated = int(np.count_nonzero(self.starts))
        return {"documents": len(self) - repeated, "pieces": len(self), "tokens_repeated": repeated}


def cut(sizes: Sizes, row_length: int, on_too_long: str) -> Pieces:
    """Return what of each document goes into rows of ``row_length`` tokens, 2 or more; nothing of those dropped."""
    lengths = sizes.lengths.astype(np.int64)
    longer = lengths > row_length
    stays = ~longer | sizes.plain
    if on_too_long == "truncate":
        stays |= sizes.firsts < row_length
    counts = np.where(longer & sizes.plain, -(-(lengths - 1) // (row_length - 1)), 1) * stays
    documents = np.repeat(np.arange(len(lengths)), counts)
    numbers = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = numbers * (row_length - 1)
    return Pieces(documents, starts, np.minimum(starts + row_length, lengths[documents]))


class CutDocuments:
    """The pieces of tokenised documents, as documents that fit a row.

    Attributes:
        records: line of each piece's record in the split's file, int64 [pieces].
        seconds: where the second of a pair's documents begins; 0 for a single document, int32 [pieces].
    """

    def __init__(self, documents: Documents, pieces: Pieces):
        self._documents, self._pieces = documents, pieces
        self.records = documents.records[pieces.documents]
        self.seconds = documents.seconds[pieces.documents]

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids and the loss mask of piece ``index``; the first token of a piece is not trained."""
        ids, mask = self._documents.document(int(self._pieces.documents[index]))
        start, stop = int(self._pieces.starts[index]), int(self._pieces.stops[index])
        return ids[start:stop], mask[start:stop]
