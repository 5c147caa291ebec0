"""Rendered records to token ids and loss masks, piece by piece where that is exact, else by character offsets.

Pieces between the borders of the assistant's spans are encoded on their own and the mask follows by repetition: no
offsets are needed, so the fast engine can be used, and a character that a normaliser deletes cannot shift the mask.
This is exact where a border is also a border of tokens; a record with a doubtful border is encoded whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from snaketune.data.engine import Engine
from snaketune.data.spans import Span
from snaketune.data.tokenizer import TextTokenizer

SEGMENTS, OFFSETS = "segments", "offsets"
# Characters that are looked at beside a border, the longest white space after it, and how many answers are kept.
CONTEXT, LONGEST_SPACE, ANSWERS_KEPT = 12, 64, 100_000
Row = tuple[np.ndarray, np.ndarray]
Segments = list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Document:
    """A rendered record.

    Attributes:
        record: line of the split's file, from 0.
        source, line: where it came from.
        spans: the characters that are trained.
        size: UTF-8 bytes of the trained text.
        plain: whether it is plain text, which the tokenizer frames itself.
    """

    record: int
    source: int
    line: int
    text: str
    spans: list[Span]
    size: int
    plain: bool


class Encoder:
    """Encodes documents with one engine.

    Args:
        method: ``segments``, or ``offsets`` when segments were found to differ on this tokenizer.
    """

    def __init__(self, tokenizer: TextTokenizer, engine: Engine, method: str = SEGMENTS):
        self._tokenizer, self._engine, self._method = tokenizer, engine, method
        self._borders = Borders(tokenizer)

    def encode(self, documents: Sequence[Document]) -> list[Row]:
        """Return ids (int32) and loss mask (int8) of each document, both of shape [tokens], in the given order."""
        rows: dict[int, Row] = {}
        plain, whole, split = [], [], []
        for place, document in enumerate(documents):
            if document.plain:
                plain.append(place)
            elif segments := self._segments(document):
                split.append((place, segments))
            else:
                whole.append(place)
        rows |= zip((place for place, _ in split), self._encode_segments([part for _, part in split]), strict=True)
        rows |= zip(plain, self._encode_plain([documents[place].text for place in plain]), strict=True)
        rows |= zip(whole, self.encode_whole([documents[place] for place in whole]), strict=True)
        return [rows[place] for place in range(len(documents))]

    def is_split(self, document: Document) -> bool:
        """Tell whether the document is encoded in segments."""
        return not document.plain and bool(self._segments(document))

    def encode_whole(self, documents: Sequence[Document]) -> list[Row]:
        """Encode each text as a whole; a token is trained when it touches a span, as in transformers."""
        if not documents:
            return []
        encodings = self._tokenizer.encode_batch([document.text for document in documents], add_special_tokens=False)
        return [
            _from_offsets(encoding, document.spans) for encoding, document in zip(encodings, documents, strict=True)
        ]

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


def _from_offsets(encoding, spans: Sequence[Span]) -> Row:
    ids = np.asarray(encoding.ids, np.int32)
    offsets = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
    starts, ends = offsets[:, 0], offsets[:, 1]
    mask = np.zeros(len(ids), np.int8)
    for start, end in spans:
        touched = np.flatnonzero((ends > start) & (starts < end) & (ends > starts))
        if len(touched):
            mask[touched[0] : touched[-1] + 1] = 1
    return _row(ids, mask)


class Borders:
    """Knows at which characters a text can be cut without changing its tokens.

    Beside a token that is matched before anything else it always can. Elsewhere the tokenizer is asked, once for the
    same few characters on both sides: pre-tokenisers look no further than a run of white space and what follows it.
    The equality gate checks the answers on whole records.
    """

    def __init__(self, tokenizer: TextTokenizer):
        self._tokenizer = tokenizer
        self._answers: dict[tuple[str, str], int | None] = {}
        added = [token for token in tokenizer.added_tokens.values() if not token.single_word and token.content.strip()]
        self._closing = _by_length({token.content for token in added if not token.rstrip})
        opening = {token.content for token in added if not token.lstrip}
        self._opening, self._first = _by_length(opening), {name[0] for name in opening}

    def split(self, text: str, spans: Sequence[Span]) -> Segments:
        """Return the pieces of ``text`` with 1 for the trained ones; nothing when a border is doubtful."""
        segments: Segments = []
        cursor = 0
        for start, end in spans:
            back = self._back(text, start)
            if back is None or start - back < cursor or self._back(text, end) != 0:
                return []
            start -= back
            if start > cursor:
                segments.append((text[cursor:start], 0))
            if end > start:
                segments.append((text[start:end], 1))
            cursor = end
        if cursor < len(text):
            segments.append((text[cursor:], 0))
        return segments

    def _back(self, text: str, at: int) -> int | None:
        """Return how many characters before ``at`` the text can be cut so that the next token reaches beyond ``at``.

        That is 0 where tokens end. It is more where white space before ``at`` belongs to the token of what follows,
        which is trained. None means that it is not known.
        """
        if at in (0, len(text)) or self._is_beside_added_token(text, at):
            return 0
        left, right = text[max(0, at - CONTEXT) : at], text[at : at + LONGEST_SPACE]
        space = len(right) - len(right.lstrip())
        if space == LONGEST_SPACE:
            return None
        key = (left, right[: space + 1])
        if key not in self._answers:
            self._answers = {} if len(self._answers) >= ANSWERS_KEPT else self._answers
            self._answers[key] = self._ask(left, text[at : at + space + CONTEXT])
        return self._answers[key]

    def _is_beside_added_token(self, text: str, at: int) -> bool:
        for size, names in self._closing:
            if size <= at and text[at - size : at] in names:
                return True
        if text[at] in self._first:
            for size, names in self._opening:
                if text[at : at + size] in names:
                    return True
        return False

    def _ask(self, left: str, right: str) -> int | None:
        if self._is_exact(left, right):
            return 0
        kept = left.rstrip()
        space = left[len(kept) :]
        if not kept or not space or not self._is_exact(kept, space + right):
            return None
        [encoding] = self._tokenizer.encode_batch([space + right], add_special_tokens=False)
        return len(space) if encoding.offsets[0][1] > len(space) else None

    def _is_exact(self, left: str, right: str) -> bool:
        whole, *parts = self._tokenizer.encode_batch([left + right, left, right], False, offsets=False)
        return whole.ids == [*parts[0].ids, *parts[1].ids]


def _by_length(names: set[str]) -> list[tuple[int, frozenset[str]]]:
    sizes = sorted({len(name) for name in names})
    return [(size, frozenset(name for name in names if len(name) == size)) for size in sizes]
