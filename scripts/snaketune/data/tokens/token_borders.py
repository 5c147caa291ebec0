"""Positions at which a text can be cut without changing its tokens."""

from collections.abc import Sequence

from snaketune.data.templates.templates import CharacterSpan
from snaketune.data.tokens.tokenizer import TextTokenizer

# Characters examined on each side of a cut, longest white space allowed after it, and size of the caches.
CONTEXT, LONGEST_SPACE, ANSWERS_KEPT = 12, 64, 100_000
Segments = list[tuple[str, int]]


class Borders:
    """Finds the positions at which a text can be cut without changing its tokens.

    Next to an added token, which is matched before anything else, a cut is always safe. Elsewhere the tokenizer is
    tried on a few characters on both sides, cached by those characters: pre-tokenisers look no further than a run of
    white space and the characters after it. The equality gate verifies the result on whole records.
    """

    def __init__(self, tokenizer: TextTokenizer):
        self._tokenizer = tokenizer
        self._answers: dict[tuple[str, str], bool] = {}
        self._near: dict[tuple[str, str], bool] = {}
        # Added tokens with lstrip or rstrip swallow white space beside them, and single_word ones depend on their
        # neighbours: only the others make a cut safe.
        added = [token for token in tokenizer.added_tokens.values() if not token.single_word and token.content.strip()]
        # Sorted by length and looked up by slices of that length: models with thousands of added tokens cost no more.
        self._closing = _by_length({token.content for token in added if not token.rstrip})
        self._reach = max([CONTEXT, *(size for size, _ in self._closing)])
        self._swallowing = tuple({token.content for token in added if token.rstrip})
        opening = {token.content for token in added if not token.lstrip}
        self._opening, self._first = _by_length(opening), {name[0] for name in opening}

    @property
    def fence(self) -> str:
        """An added token that strips no text on either side, or '' if there is none."""
        fences = set().union(*(names for _, names in self._closing)) & set().union(
            *(names for _, names in self._opening)
        )
        return min(fences, default="")

    def split(self, text: str, spans: Sequence[CharacterSpan]) -> Segments:
        """Return the segments of ``text``, with 1 for trained ones; an empty list if a cut is doubtful."""
        segments: Segments = []
        cursor = 0
        for start, end in spans:
            if not self.is_border(text, start) or not self.is_border(text, end):
                return []
            if start > cursor:
                segments.append((text[cursor:start], 0))
            if end > start:
                segments.append((text[start:end], 1))
            cursor = end
        if cursor < len(text):
            segments.append((text[cursor:], 0))
        return segments

    def is_border(self, text: str, at: int) -> bool:
        """Return whether a token boundary at the character ``at`` is certain enough to cut there."""
        if not 0 < at < len(text):
            return True
        key = (text[max(0, at - self._reach) : at], text[at])
        if (known := self._near.get(key)) is None:
            known = self._decide(text, at)
            if self._is_near(key[1]):
                self._near = {} if len(self._near) >= ANSWERS_KEPT else self._near
                self._near[key] = known
        return known

    def _is_near(self, following: str) -> bool:
        """Return whether a few characters before a cut and the one after it determine the result."""
        return not self._swallowing and not following.isspace() and following not in self._first

    def _decide(self, text: str, at: int) -> bool:
        if self._is_beside_added_token(text, at):
            return True
        if self._swallowing and text[:at].rstrip().endswith(self._swallowing):
            return not text[at].isspace()
        left, right = text[max(0, at - CONTEXT) : at], text[at : at + LONGEST_SPACE]
        space = len(right) - len(right.lstrip())
        # The white space may go on, and tokens of white space depend on its full length.
        if space == LONGEST_SPACE:
            return False
        key = (left, right[: space + 1])
        if key not in self._answers:
            # Dropping the whole cache is rare and cheaper than tracking the age of entries.
            self._answers = {} if len(self._answers) >= ANSWERS_KEPT else self._answers
            self._answers[key] = self._is_exact(left, text[at : at + space + CONTEXT])
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

    def _is_exact(self, left: str, right: str) -> bool:
        whole, *parts = self._tokenizer.encode_batch([left + right, left, right], False, offsets=False)
        found: bool = whole.ids == [*parts[0].ids, *parts[1].ids]
        return found


def _by_length(names: set[str]) -> list[tuple[int, frozenset[str]]]:
    sizes = sorted({len(name) for name in names})
    return [(size, frozenset(name for name in names if len(name) == size)) for size in sizes]
