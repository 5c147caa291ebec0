"""Rendered records to token ids and loss masks, piece by piece where that is exact, else by character offsets.

Pieces between the borders of the assistant's spans are encoded on their own and the mask follows by repetition: no
offsets are needed, so the fast engine can be used, and a character that a normaliser deletes cannot shift the mask.
This is exact where a border is also a border of tokens; a record with a doubtful border is encoded whole.

An answer begins where the tokens of its prompt, encoded alone as inference does, end. Where the first characters of an
answer would join the last ones of its prompt in one token, prompt and answer are encoded apart, since inference gives
the prompt's tokens as they are; such an answer has an example of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from snaketune.data.templates.templates import Span
from snaketune.data.tokens.token_borders import Borders, Segments
from snaketune.data.tokens.tokenizer import TextTokenizer
from snaketune.data.tokens.tokenizer_engine import Engine

SEGMENTS, OFFSETS = "segments", "offsets"
Row = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True)
class Document:
    """A rendered record.

    Attributes:
        record: line of the split's file, from 0.
        source, line: where it came from.
        spans: the characters that are trained.
        size: UTF-8 bytes of the trained text.
        plain: whether it is plain text, which the tokenizer frames itself.
        answers: how many spans are answers that end with a stop token; 0 where everything is trained.
        lost: answers whose reasoning the template leaves out.
        sizes: the part of ``size`` that each answer has.
        rejected: whether it is a bad answer that has no good one beside it.
        notes: what the account says of its answers, see :class:`~snaketune.data.templates.examples.Example`.
    """

    record: int
    source: int
    line: int
    text: str
    spans: list[Span]
    size: int
    plain: bool
    answers: int = 0
    lost: int = 0
    sizes: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    rejected: bool = False

    def alone(self, answer: int) -> "Document":
        """Return the document of one answer: its prompt and the answer, of which alone it is trained."""
        span = self.spans[answer]
        size = self.sizes[answer] if self.sizes else self.size
        # The counts of the record stay with its first answer.
        lost, notes = (self.lost, self.notes) if answer == 0 else (0, ())
        own = replace(self, text=self.text[: span[1]], spans=[span], size=size, sizes=(size,), answers=1)
        return replace(own, lost=lost, notes=notes)


class Encoder:
    """Encodes documents with one engine.

    Args:
        method: ``segments``, or ``offsets`` when segments were found to differ on this tokenizer.
    """

    def __init__(self, tokenizer: TextTokenizer, engine: Engine, method: str = SEGMENTS):
        self._tokenizer, self._engine, self._method = tokenizer, engine, method
        self._borders = Borders(tokenizer)
        self._known: dict[int, Segments] = {}

    def apart(self, documents: Sequence[Document]) -> list[Document]:
        """Return the documents; one with an answer that joins its prompt in a token is split into its answers."""
        parted: list[Document] = []
        for document in documents:
            if document.answers < 2 or self._kept(document) or not self._joins(document):
                parted.append(document)
            else:
                parted += [document.alone(answer) for answer in range(len(document.spans))]
        return parted

    def encode(self, documents: Sequence[Document]) -> list[Row]:
        """Return ids (int32) and loss mask (int8) of each document, both of shape [tokens], in the given order.

        A document whose answer cannot be told from its prompt in tokens has an empty mask.
        """
        rows: dict[int, Row] = {}
        plain, whole, split = [], [], []
        for place, document in enumerate(documents):
            if document.plain:
                plain.append(place)
            elif segments := self._known.pop(id(document), None) or self._segments(document):
                split.append((place, segments))
            else:
                whole.append(place)
        rows |= zip((place for place, _ in split), self._encode_segments([part for _, part in split]), strict=True)
        rows |= zip(plain, self._encode_plain([documents[place].text for place in plain]), strict=True)
        rows |= zip(whole, self.encode_whole([documents[place] for place in whole]), strict=True)
        self._known.clear()
        return [rows[place] for place in range(len(documents))]

    def is_split(self, document: Document) -> bool:
        """Tell whether the document is encoded in segments."""
        return not document.plain and bool(self._segments(document))

    def encode_whole(self, documents: Sequence[Document]) -> list[Row]:
        """Encode each text as a whole, or in two where an answer would join its prompt in a token."""
        if not documents:
            return []
        encodings = self._tokenizer.encode_batch([document.text for document in documents], add_special_tokens=False)
        return [self._row(encoding, document) for encoding, document in zip(encodings, documents, strict=True)]

    def _row(self, encoding: Any, document: Document) -> Row:
        starts = self._first_tokens(encoding, document)
        if None not in starts:
            return _from_offsets(encoding, document.spans, starts)
        if len(document.spans) == 1:
            return self._encode_in_two(encoding, document)
        return _row(np.asarray(encoding.ids, np.int32), np.zeros(len(encoding.ids), np.int8))

    def _joins(self, document: Document) -> bool:
        [encoding] = self._tokenizer.encode_batch([document.text], add_special_tokens=False)
        return None in self._first_tokens(encoding, document)

    def _first_tokens(self, encoding: Any, document: Document) -> list[int | None]:
        """Return the first token of each span, None where it begins inside a token that its prompt does not have."""
        offsets = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
        starts, ends = offsets[:, 0], offsets[:, 1]
        found: list[int | None] = []
        for start, end in document.spans:
            touched = np.flatnonzero((ends > start) & (starts < end) & (ends > starts))
            if not document.answers or not len(touched):
                found.append(int(touched[0]) if len(touched) else len(starts))
                continue
            # Where the text goes on, the prompt's own last characters may be other tokens than alone.
            if starts[touched[0]] >= start and self._borders.is_border(document.text, start):
                found.append(int(touched[0]))
                continue
            [prompt] = self._tokenizer.encode_batch([document.text[:start]], False, offsets=False)
            # A token of the prompt may swallow the white space at the beginning of the answer.
            found.append(len(prompt.ids) if encoding.ids[: len(prompt.ids)] == prompt.ids else None)
        return found

    def _encode_in_two(self, encoding: Any, document: Document) -> Row:
        """Encode prompt and answer apart; nothing is trained where that does not spell the same text."""
        [(start, end)] = document.spans
        fence = self._borders.fence
        [prompt] = self._tokenizer.encode_batch([document.text[:start]], False, offsets=False)
        [rest] = self._tokenizer.encode_batch([fence + document.text[start:]], add_special_tokens=False)
        skipped = 1 if fence else 0
        ids = np.asarray([*prompt.ids, *rest.ids[skipped:]], np.int32)
        mask = np.zeros(len(ids), np.int8)
        if self._tokenizer.decode(ids.tolist()) == self._tokenizer.decode(encoding.ids):
            begins = np.asarray(rest.offsets, np.int64).reshape(-1, 2)[skipped:, 0] - len(fence)
            mask[len(prompt.ids) :][begins < end - start] = 1
        return _row(ids, mask)

    def _kept(self, document: Document) -> Segments:
        """Return the segments of a document and keep them until it is encoded."""
        if segments := self._segments(document):
            self._known[id(document)] = segments
        return segments

    def _segments(self, document: Document) -> Segments:
        return self._borders.split(document.text, document.spans) if self._method == SEGMENTS else []

    def _encode_segments(self, parts: Sequence[Segments]) -> list[Row]:
        if not parts:
            return []
        texts = [text for segments in parts for text, _ in segments]
        flags = np.fromiter((flag for segments in parts for _, flag in segments), np.int8, len(texts))
        ids, offsets = self._engine.encode(texts, False)
        mask = np.repeat(flags, np.diff(offsets))
        ends = offsets[list(accumulate(map(len, parts)))].tolist()
        rows, start = [], 0
        for end in ends:
            rows.append(_row(ids[start:end], mask[start:end]))
            start = end
        return rows

    def _encode_plain(self, texts: Sequence[str]) -> list[Row]:
        """Encode plain text: all of it is trained, with the end of sequence that the tokenizer may not add itself."""
        if not texts:
            return []
        ids, offsets = self._engine.encode(texts, True)
        eos, rows = self._tokenizer.eos_id, []
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            own = ids[start:end]
            if eos is not None and (start == end or own[-1] != eos):
                own = np.append(own, np.int32(eos))
            rows.append(_row(own, np.ones(len(own), np.int8)))
        return rows


def _row(ids: np.ndarray, mask: np.ndarray) -> Row:
    mask[:1] = 0  # nothing comes before the first token, so nothing predicts it
    return ids, mask


def _from_offsets(encoding: Any, spans: Sequence[Span], first_tokens: Sequence[int | None]) -> Row:
    ids = np.asarray(encoding.ids, np.int32)
    offsets = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
    begins, ends = offsets[:, 0], offsets[:, 1]
    mask = np.zeros(len(ids), np.int8)
    for (start, end), first in zip(spans, first_tokens, strict=True):
        touched = np.flatnonzero((ends > start) & (begins < end) & (ends > begins))
        if len(touched):
            mask[first : touched[-1] + 1] = 1
    return _row(ids, mask)
