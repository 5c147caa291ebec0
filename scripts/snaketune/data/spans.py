"""Which characters of a rendered conversation the assistant speaks, for templates that do not mark them.

Three ways, from cheap and exact to slow and exact; the first that proves itself on the record is taken:

1. The scaffold: what the template writes around the contents, learned once per sequence of roles by rendering
   sentinels. Putting the true contents back must give the true text, character by character.
2. Landmarks: the generation prompt and the end of turn, both with a control token, which no content can spell. This
   finds the answers of templates that rewrite contents (drop the thoughts of earlier turns, for example).
3. Prefixes: the conversation up to each answer is rendered and must be a beginning of the whole.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from snaketune.common.errors import DataError

Message = dict[str, Any]
Span = tuple[int, int]
Roles = tuple[str, ...]

# Private-use characters: no template treats them as white space, letters or digits.
FIRST_SENTINEL = 0xF0000
PLAIN_KEYS = {"role", "content", "weight"}


@dataclass(frozen=True, slots=True)
class Turn:
    """How the answer at ``place`` stands in its scaffold.

    Attributes:
        place: index of the message.
        before: characters between the generation prompt and the content, which the model has to write as well.
        after: characters of the end of turn that follow the content.
    """

    place: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Scaffold:
    """The literal texts around n contents, n + 1 of them, and the turns of the assistant."""

    literals: tuple[str, ...]
    turns: tuple[Turn, ...]

    def spans(self, contents: Sequence[str], text: str) -> list[Span] | None:
        """Return the spans of the answers in ``text``, or None if it is not these contents in this scaffold."""
        pieces = (*chain.from_iterable(zip(self.literals, contents, strict=False)), self.literals[-1])
        if "".join(pieces) != text:
            return None
        spans, position, done = [], 0, 0
        for turn in self.turns:
            end = 2 * turn.place + 1
            position, done = position + sum(map(len, pieces[done:end])), end
            spans.append((position - turn.before, position + len(pieces[end]) + turn.after))
        return spans


@dataclass(frozen=True, slots=True)
class Landmarks:
    """The generation prompt and the end of turn of a template."""

    prompt: str
    end: str

    def spans(self, text: str, answers: int) -> list[Span] | None:
        """Return the spans between prompt and end, or None unless there are exactly ``answers`` of them."""
        if text.count(self.prompt) != answers:
            return None
        spans, cursor = [], 0
        for _ in range(answers):
            start = text.find(self.prompt, cursor) + len(self.prompt)
            cursor = text.find(self.end, start) + len(self.end)
            if start < len(self.prompt) or cursor < len(self.end):
                return None
            spans.append((start, cursor))
        return spans


class SpanFinder:
    """Finds the answers in the texts that one template renders.

    Args:
        render: ``render(messages, add_generation_prompt, tools)`` of the template; raises DataError when it refuses.
        control: matches control tokens; records with one in a content never get here.
    """

    def __init__(self, render: Callable[..., str], control: re.Pattern[str] | None):
        self._render = render
        self._control = control
        self._scaffolds: dict[Roles, Scaffold | None] = {}
        self._prefixes: dict[tuple[Roles, bool], str | None] = {}
        self._strips = False

    def find(self, messages: Sequence[Message], text: str, tools: list[Message] | None = None) -> list[Span]:
        """Return the spans of the answers in ``text``, the rendered ``messages``, in order.

        Raises:
            DataError: when they cannot be told.
        """
        roles = tuple(message["role"] for message in messages)
        # Tools are written before, between or after the messages, which the scaffold knows nothing of.
        spans = None if tools else self._in_scaffold(messages, roles, text)
        if spans is None and (marks := self._landmarks(roles)):
            spans = marks.spans(text, roles.count("assistant"))
        return self._from_prefixes(messages, text, tools) if spans is None else spans

    def _in_scaffold(self, messages: Sequence[Message], roles: Roles, text: str) -> list[Span] | None:
        if not all(map(_is_plain, messages)) or not (scaffold := self._scaffold(roles)):
            return None
        contents: list[str] = [message["content"] for message in messages]
        for strips in (self._strips, not self._strips):
            given = [content.strip() for content in contents] if strips else contents
            if (spans := scaffold.spans(given, text)) is not None:
                self._strips = strips
                return spans
        return None

    def _scaffold(self, roles: Roles) -> Scaffold | None:
        if roles not in self._scaffolds:
            self._scaffolds[roles] = self._learn(roles)
        return self._scaffolds[roles]

    def _learn(self, roles: Roles) -> Scaffold | None:
        text = self._sentinels(roles, False)
        if text is None:
            return None
        literals = re.split(f"[{chr(FIRST_SENTINEL)}-{chr(FIRST_SENTINEL + len(roles) - 1)}]", text)
        if "".join(map(_joined, enumerate(literals))) != text + chr(FIRST_SENTINEL + len(roles)):
            return None
        answers = [place for place, role in enumerate(roles) if role == "assistant"]
        return Scaffold(tuple(literals), tuple(self._turn(place, roles, literals) for place in answers))

    def _turn(self, place: int, roles: Roles, literals: list[str]) -> Turn:
        opening, closing = literals[place], literals[place + 1]
        prompt, silent = (self._tail(roles[:place], flag) for flag in (True, False))
        before = 0
        if prompt and opening.startswith(prompt):
            rest = opening[len(prompt) :]
            # A template without a generation prompt writes the role's header here, which is not the model's part.
            before = len(rest) if prompt != silent or rest.isspace() else 0
        alone = self._tail(roles[: place + 1], False)
        end = _common_beginning(closing, alone or "")
        return Turn(place, before, len(end.rstrip()))

    def _tail(self, roles: Roles, prompt: bool) -> str | None:
        """Return what the template writes after the last content of ``roles``."""
        text = self._sentinels(roles, prompt)
        return None if text is None else text.rpartition(chr(FIRST_SENTINEL + len(roles) - 1))[2]

    def _sentinels(self, roles: Roles, prompt: bool) -> str | None:
        key = (roles, prompt)
        if key not in self._prefixes:
            messages = [{"role": role, "content": chr(FIRST_SENTINEL + n)} for n, role in enumerate(roles)]
            try:
                self._prefixes[key] = self._render(messages, prompt)
            except DataError:
                self._prefixes[key] = None
        return self._prefixes[key]

    def _landmarks(self, roles: Roles) -> Landmarks | None:
        place = roles.index("assistant") if "assistant" in roles else 0
        scaffold = self._scaffold(roles[: place + 1])
        prompt, silent = (self._tail(roles[:place], flag) for flag in (True, False))
        if not (self._control and place and scaffold and prompt and silent is not None and prompt.startswith(silent)):
            return None
        [turn] = scaffold.turns
        marks = Landmarks(prompt[len(silent) :], scaffold.literals[-1][: turn.after])
        return marks if self._control.search(marks.prompt) and self._control.search(marks.end) else None

    def _from_prefixes(self, messages: Sequence[Message], text: str, tools: list[Message] | None) -> list[Span]:
        spans = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:index], True, tools)
            after = self._render(messages[: index + 1], False, tools)
            if not text.startswith(before) or not text.startswith(after) or len(after) <= len(before):
                raise DataError(
                    "the chat template rewrites earlier turns, so that the answer cannot be told from the prompt: set"
                    " tokens.chat_template to one with {% generation %} markers"
                )
            spans.append((len(before), len(before) + len(after[len(before) :].rstrip())))
        return spans


def _is_plain(message: Message) -> bool:
    return message.keys() <= PLAIN_KEYS and type(message.get("content")) is str


def _common_beginning(left: str, right: str) -> str:
    return left[
        : next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    ]


def _joined(piece: tuple[int, str]) -> str:
    return piece[1] + chr(FIRST_SENTINEL + piece[0])
