"""Token ids and loss masks of rendered records: by segments where that is exact, otherwise by character offsets.

The text is cut at the edges of the assistant's spans, each segment is encoded separately, and the mask repeats the
segment's flag for each of its tokens. This needs no offsets, so the fast engine can be used, and a character deleted by
a normaliser cannot shift the mask. It is exact if every cut is a token boundary; a record with a doubtful cut is
encoded as a whole.

An answer begins where the tokens of its prompt end, with the prompt encoded alone, as at inference. If the first
characters of an answer would merge with the end of its prompt into one token, prompt and answer are encoded separately,
because inference never sees the merged token; such an answer becomes a separate example.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from snaketune.data.templates.templates import CharacterSpan
from snaketune.data.tokens.token_borders import Borders, Segments
from snaketune.data.tokens.tokenizer import TextTokenizer
from snaketune.data.tokens.tokenizer_engine import EncodingEngine

SEGMENTS, OFFSETS = "segments", "offsets"
TokensAndMask = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True)
class EncodedRecord:
    """A rendered record.

    Attributes:
        record: line of the split's file, from 0.
        source, line: origin of the record.
        spans: character ranges that are trained.
        size: UTF-8 bytes of the trained text.
        plain: whether it is plain text, to which the tokenizer adds its special tokens.
        answers: number of spans that are answers ending with a stop token; 0 if everything is trained.
        lost: number of answers whose reasoning the template leaves out.
        sizes: the share of each answer in ``size``.
        rejected: whether it is a rejected answer without a chosen one.
        margin: by how much the chosen answer of a pair is better.
        notes: notes for the counts, see :class:`~snaketune.data.templates.examples.TrainingText`.
    """

    record: int
    source: int
    line: int
    text: str
    spans: list[CharacterSpan]
    size: int
    plain: bool
    answers: int = 0
    lost: int = 0
    sizes: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    rejected: bool = False
    margin: float = 0.0

    def alone(self, answer: int) -> "EncodedRecord":
        """Return the document of one answer: the text up to its end, in which only this answer is trained."""
        span = self.spans[answer]
        size = self.sizes[answer] if self.sizes else self.size
        # The counts of the record go with its first answer, so that they are counted once.
        lost, notes = (self.lost, self.notes) if answer == 0 else (0, ())
        own = replace(self, text=self.text[: span[1]], spans=[span], size=size, sizes=(size,), answers=1)
        return replace(own, lost=lost, notes=notes)


class Encoder:
    """Encodes documents with one engine.

    Args:
        method: ``segments``, or ``offsets`` if segments were found to differ for this tokenizer.
    """

    def __init__(self, tokenizer: TextTokenizer, engine: EncodingEngine, method: str = SEGMENTS):
        self._tokenizer, self._engine, self._method = tokenizer, engine, method
        self._borders = Borders(tokenizer)
        self._known: dict[int, Segments] = {}

    def separate(self, documents: Sequence[EncodedRecord]) -> list[EncodedRecord]:
        """Return the documents, with one per answer where an answer would merge with its prompt into one token."""
        parted: list[EncodedRecord] = []
        for document in documents:
            # A document that can be cut into segments is encoded exactly, and one with a single answer has nothing to
            # part.
            if document.answers < 2 or self._kept(document) or not self._joins(document):
                parted.append(document)
            else:
                parted += [document.alone(answer) for answer in range(len(document.spans))]
        return parted

    def encode(self, documents: Sequence[EncodedRecord]) -> list[TokensAndMask]:
        """Return ids (int32) and loss mask (int8) of each document, both of shape [tokens], in the given order.

        The mask is all zeros if an answer cannot be separated from its prompt in tokens.
        """
        rows: dict[int, TokensAndMask] = {}
        plain, whole, split = [], [], []
        for place, document in enumerate(documents):
            if document.plain:
                plain.append(place)
            elif segments := self._known.pop(id(document), None) or self._segments(document):
                split.append((place, segments))
            else:
                whole.append(place)
        # One call per kind of document: batches keep the engine's threads busy.
        rows |= zip((place for place, _ in split), self._encode_segments([part for _, part in split]), strict=True)
        rows |= zip(plain, self._encode_plain([documents[place].text for place in plain]), strict=True)
        rows |= zip(whole, self.encode_whole([documents[place] for place in whole]), strict=True)
        self._known.clear()
        return [rows[place] for place in range(len(documents))]

    def is_split(self, document: EncodedRecord) -> bool:
        """Return whether the document is encoded in segments."""
        return not document.plain and bool(self._segments(document))

    def encode_whole(self, documents: Sequence[EncodedRecord]) -> list[TokensAndMask]:
        """Encode each text as a whole, or in two parts if an answer would merge with its prompt into one token."""
        if not documents:
            return []
        encodings = self._tokenizer.encode_batch([document.text for document in documents], add_special_tokens=False)
        return [self._row(encoding, document) for encoding, document in zip(encodings, documents, strict=True)]

    def _row(self, encoding: Any, document: EncodedRecord) -> TokensAndMask:
        starts = self._first_tokens(encoding, document)
        if None not in starts:
            return _from_offsets(encoding, document.spans, starts)
        if len(document.spans) == 1:
            return self._encode_in_two(encoding, document)
        return _row(np.asarray(encoding.ids, np.int32), np.zeros(len(encoding.ids), np.int8))

    def _joins(self, document: EncodedRecord) -> bool:
        [encoding] = self._tokenizer.encode_batch([document.text], add_special_tokens=False)
        return None in self._first_tokens(encoding, document)

    def _first_tokens(self, encoding: Any, document: EncodedRecord) -> list[int | None]:
        """Return the first token of each span, None if the span begins inside a token that its prompt does not have."""
        offsets = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
        starts, ends = offsets[:, 0], offsets[:, 1]
        found: list[int | None] = []
        for start, end in document.spans:
            # Every token that overlaps the span, however little; tokens without text (ends == starts) overlap nothing.
            touched = np.flatnonzero((ends > start) & (starts < end) & (ends > starts))
            if not document.answers or not len(touched):
                found.append(int(touched[0]) if len(touched) else len(starts))
                continue
            # The prompt's last characters may be tokenised differently when text follows than at inference.
            if starts[touched[0]] >= start and self._borders.is_border(document.text, start):
                found.append(int(touched[0]))
                continue
            [prompt] = self._tokenizer.encode_batch([document.text[:start]], False, offsets=False)
            # An added token with rstrip takes in white space at the beginning of the answer: compare ids, not offsets.
            found.append(len(prompt.ids) if encoding.ids[: len(prompt.ids)] == prompt.ids else None)
        return found

    def _encode_in_two(self, encoding: Any, document: EncodedRecord) -> TokensAndMask:
        """Encode prompt and answer separately; train nothing unless both spell the text of the whole."""
        # Many tokenisers treat the beginning of a text specially (a prefix space, for example). A fence, an added token
        # before the answer, keeps it from being a beginning; the fence's own id is dropped afterwards.
        [(start, end)] = document.spans
        fence = self._borders.fence
        [prompt] = self._tokenizer.encode_batch([document.text[:start]], False, offsets=False)
        [rest] = self._tokenizer.encode_batch([fence + document.text[start:]], add_special_tokens=False)
        skipped = 1 if fence else 0
        ids = np.asarray([*prompt.ids, *rest.ids[skipped:]], np.int32)
        mask = np.zeros(len(ids), np.int8)
        # Compared as text, because the ids differ by design at the joint; a difference in text means that the fence
        # altered the answer.
        if self._tokenizer.decode(ids.tolist()) == self._tokenizer.decode(encoding.ids):
            begins = np.asarray(rest.offsets, np.int64).reshape(-1, 2)[skipped:, 0] - len(fence)
            mask[len(prompt.ids) :][begins < end - start] = 1
        return _row(ids, mask)

    def _kept(self, document: EncodedRecord) -> Segments:
        """Return the segments of a document, cached until it is encoded."""
        if segments := self._segments(document):
            self._known[id(document)] = segments
        return segments

    def _segments(self, document: EncodedRecord) -> Segments:
        return self._borders.split(document.text, document.spans) if self._method == SEGMENTS else []

    def _encode_segments(self, parts: Sequence[Segments]) -> list[TokensAndMask]:
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

    def _encode_plain(self, texts: Sequence[str]) -> list[TokensAndMask]:
        """Encode plain text, all of which is trained, with an end-of-sequence token even if the tokenizer adds none."""
        if not texts:
            return []
        ids, offsets = self._engine.encode(texts, True)
        eos, rows = self._tokenizer.eos_id, []
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            own = ids[start:end]
            # Without it the model would learn texts that never end. Some tokenizers add the token themselves; it is
            # never doubled.
            if eos is not None and (start == end or own[-1] != eos):
                own = np.append(own, np.int32(eos))
            rows.append(_row(own, np.ones(len(own), np.int8)))
        return rows


def _row(ids: np.ndarray, mask: np.ndarray) -> TokensAndMask:
    mask[:1] = 0  # no position precedes the first token, so nothing predicts it
    return ids, mask


def _from_offsets(encoding: Any, spans: Sequence[CharacterSpan], first_tokens: Sequence[int | None]) -> TokensAndMask:
    ids = np.asarray(encoding.ids, np.int32)
    offsets = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
    begins, ends = offsets[:, 0], offsets[:, 1]
    mask = np.zeros(len(ids), np.int8)
    for (start, end), first in zip(spans, first_tokens, strict=True):
        # Tokens of byte-level BPE may share a character; empty offsets belong to tokens that stand for no text.
        touched = np.flatnonzero((ends > start) & (begins < end) & (ends > begins))
        if len(touched):
            mask[first : touched[-1] + 1] = 1
    return _row(ids, mask)
