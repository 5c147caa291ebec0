"""The training examples of a conversation: texts, and the character spans of the assistant's answers.

One text holds several answers if each of them appears in it exactly as at inference: after the same prompt and with the
same end. If a template rewrites earlier turns (by dropping their reasoning, for example), each affected answer becomes
a separate example, so that no answer is trained after a prompt that inference would not give.

Plain conversations take a shortcut. The scaffold, which is the text that the template writes around the contents, is
learned once per sequence of roles with placeholder contents. Filling in the true contents must reproduce the true
rendering character by character. If the template inspects contents, the prompt of each answer is rendered as well.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from snaketune.core.errors import DataError
from snaketune.data.conversations.reasoning import BEFORE_MARKS, split_content
from snaketune.data.templates.left_out import check_text_written
from snaketune.data.templates.templates import CharacterSpan, ChatTemplate, Message
from snaketune.data.templates.turns import AnswerPrompt, Turns

# The role of each message, and whether it is trained.
Key = tuple[tuple[str, bool], ...]

# Answers that get eos_token added; that are trained from the start of the template's marks; that are not marked.
ENDED, LATER, UNMARKED = "answers_ended_with_eos", "answers_trained_from_their_mark", "answers_without_a_mark"
# Private-use characters: no template treats them as white space, letters or digits.
FIRST_SENTINEL = 0xF1000
PLAIN_KEYS = {"role", "content", "weight"}


@dataclass(frozen=True, slots=True)
class TrainingText:
    """A text to train on.

    Attributes:
        spans: character ranges of the answers, each with its stop token, in order.
        places: indices of these answers among the messages.
        history: number of messages in the text.
        notes: a note per answer for the counts: :data:`ENDED`, :data:`LATER` or :data:`UNMARKED`.
    """

    text: str
    spans: tuple[CharacterSpan, ...]
    places: tuple[int, ...]
    history: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Frame:
    """The literal texts around the contents of one example, and where its answers begin and end.

    Attributes:
        literals: n + 1 texts around n contents.
        edges: for each span, the literal in which it begins, the offset in it, and the same for its end.
    """

    literals: tuple[str, ...]
    edges: tuple[tuple[int, int, int, int], ...]
    places: tuple[int, ...]
    notes: tuple[str, ...]

    def fill(self, contents: Sequence[str]) -> TrainingText:
        """Return the example with these contents."""
        pieces = list(chain.from_iterable(zip(self.literals, contents, strict=False)))
        pieces.append(self.literals[len(contents)])
        spans, position, done = [], 0, 0
        for first, skip, last, until in self.edges:
            position, done = position + sum(map(len, pieces[done : 2 * first])), 2 * first
            start = position + skip
            end = position + sum(map(len, pieces[done : 2 * last])) + until
            spans.append((start, end))
        return TrainingText("".join(pieces), tuple(spans), self.places, len(contents), self.notes)


@dataclass(frozen=True, slots=True)
class _Scaffold:
    """The rendering of conversations with one sequence of roles, and the examples that they yield.

    Attributes:
        marked: whether the template's ``{% generation %}`` blocks mark exactly the answers, so that they can be used.
    """

    literals: tuple[str, ...]
    frames: tuple[_Frame, ...]
    marked: bool


class ExampleFinder:
    """Makes the examples of conversations with one template.

    Args:
        template: the template.
        control: matches any control token; records whose content spells one are refused earlier.
        stops: texts of the stop tokens.
        eos: the stop token to add to an answer that the template leaves unended; '' refuses such answers.
    """

    def __init__(self, template: ChatTemplate, control: re.Pattern[str] | None, stops: Sequence[str], eos: str = ""):
        self._template = template
        self.turns = Turns(template, control, stops, eos)
        self._scaffolds: dict[Key, _Scaffold | None] = {}
        self._strips = False

    def find(self, messages: Sequence[Message], tools: list[Message] | None = None) -> list[TrainingText]:
        """Return the examples in which every answer whose ``weight`` is not 0 is trained exactly once.

        Raises:
            DataError: if the template refuses the conversation or leaves a part of it out, or an answer cannot be
                trained as it appears at inference.
        """
        # Templates write tools before, between or after the messages: a scaffold of roles does not cover them.
        quick = None if tools else self._from_scaffold(messages)
        return self._exact(messages, tools) if quick is None else quick

    def _from_scaffold(self, messages: Sequence[Message]) -> list[TrainingText] | None:
        for message in messages:
            if not is_plain(message):
                return None
        return self.of_plain(messages)

    def of_plain(self, messages: Sequence[Message]) -> list[TrainingText] | None:
        """Return the examples of messages that are all plain, or None if :meth:`find` must take the exact way."""
        scaffold = self._scaffold(tuple([(m["role"], m.get("weight") != 0) for m in messages]))
        if scaffold is None:
            return None
        # The true rendering is still made and compared below: the scaffold saves the rendering of each answer's prompt,
        # never the check.
        text = self._template.render(messages)
        if scaffold.marked:
            [frame] = scaffold.frames
            spans = tuple(self._template.marked())
            if len(spans) != len(frame.places):
                return None
            return [TrainingText(text, spans, frame.places, len(messages), frame.notes)]
        contents: list[str] = [message["content"] for message in messages]
        # Some templates strip contents: the variant that matched last is tried first.
        for strips in (self._strips, not self._strips):
            given = [content.strip() for content in contents] if strips else contents
            if _joined(scaffold.literals, given) != text:
                continue
            self._strips = strips
            examples = [frame.fill(given[: len(frame.literals) - 1]) for frame in scaffold.frames]
            return examples if not self._template.looks_inside or self._has_prompts(examples, messages) else None
        return None

    def _has_prompts(self, examples: list[TrainingText], messages: Sequence[Message]) -> bool:
        """Return whether each answer of a single example follows the prompt that inference gives."""
        if len(examples) != 1:
            return False
        [example] = examples
        return all(
            self._template.render(messages[:place], True) == example.text[:start]
            for place, (start, _) in zip(example.places, example.spans, strict=True)
        )

    def _scaffold(self, key: Key) -> _Scaffold | None:
        if key not in self._scaffolds:
            self._scaffolds[key] = self._learn(key)
        return self._scaffolds[key]

    def _learn(self, key: Key) -> _Scaffold | None:
        messages: list[Message] = [
            {"role": role, "content": chr(FIRST_SENTINEL + place), "weight": int(trained)}
            for place, (role, trained) in enumerate(key)
        ]
        try:
            examples = self._exact(messages, None)
            text, spans = self._template.render(messages), self._template.marked()
        # return None
        except DataError:
            return None
        literals = _literals(text, len(key))
        frames = [_frame(example) for example in examples]
        if literals is None or None in frames:
            return None
        marked = len(examples) == 1 and examples[0].text == text and list(examples[0].spans) == spans
        is_blind = not self._template.looks_inside
        return _Scaffold(literals, tuple([frame for frame in frames if frame]), marked and bool(spans) and is_blind)

    def _exact(self, messages: Sequence[Message], tools: list[Message] | None) -> list[TrainingText]:
        trained = [
            place
            for place, message in enumerate(messages)
            if message["role"] == "assistant" and message.get("weight") != 0
        ]
        turns = {place: self.turns.turn(messages, place, tools) for place in trained}
        if self._template.marks_generation:
            turns = self._with_marks(turns, messages, tools)
        examples: list[TrainingText] = []
        # From the last answer backwards: the text that ends with it usually holds all earlier answers unchanged. Those
        # that it does not hold wait for a text of their own.
        waiting = [place for place in trained if turns[place].is_marked]
        unmarked = (UNMARKED,) * (len(trained) - len(waiting))
        while waiting:
            text, history = self._text(messages, waiting[-1], turns, tools, is_last=not examples)
            # A prefix, not a substring: an answer is trained in this text only if everything before it is its inference
            # prompt.
            fits = [place for place in waiting if text.startswith(turns[place].text)]
            check_text_written(messages[:history], text, {place: turns[place].answer for place in fits}, tools)
            examples.append(_example(text, {place: turns[place] for place in fits}, history))
            # The loop ends: the text of the last waiting answer always holds that answer.
            waiting = [place for place in waiting if place not in fits]
        if unmarked and examples:
            examples[0] = replace(examples[0], notes=examples[0].notes + unmarked)
        return examples[::-1]

    def _with_marks(
        self, turns: dict[int, AnswerPrompt], messages: Sequence[Message], tools: list[Message] | None
    ) -> dict[int, AnswerPrompt]:
        """Return the turns, with marks taken from the whole conversation for turns that it holds unchanged."""
        text = self._template.render(messages, False, tools)
        marked = self._template.marked()
        if not self.turns.has_marks:
            return turns
        return {
            place: replace(turn, is_marked=any(a < len(turn.text) and b > max(a, len(turn.prompt)) for a, b in marked))
            if text.startswith(turn.text)
            else turn
            for place, turn in turns.items()
        }

    def _text(
        self,
        messages: Sequence[Message],
        last: int,
        turns: dict[int, AnswerPrompt],
        tools: list[Message] | None,
        is_last: bool,
    ) -> tuple[str, int]:
        """Return the text up to the answer at ``last``, with what the template writes after it if possible."""
        wanted = turns[last].text
        for count in (len(messages), last + 1) if is_last else (last + 1,):
            whole = self._template.render(messages[:count], False, tools)
            if whole.startswith(wanted):
                return whole, count
        return wanted, last + 1


def _example(text: str, turns: dict[int, AnswerPrompt], history: int) -> TrainingText:
    spans = [(len(turn.prompt) + turn.skip, len(turn.text)) for turn in turns.values()]
    notes = [ENDED for turn in turns.values() if turn.is_ended] + [LATER for turn in turns.values() if turn.skip]
    return TrainingText(text, tuple(spans), tuple(turns), history, tuple(notes))


def _frame(example: TrainingText) -> _Frame | None:
    """Return the literal texts of an example with placeholders, None if not all of them are in it in order."""
    literals = _literals(example.text, example.history)
    if literals is None:
        return None
    starts = [0]
    for literal in literals[:-1]:
        starts.append(starts[-1] + len(literal) + 1)
    edges = []
    for start, end in example.spans:
        first, last = (
            max(
                number for number, begin in enumerate(starts) if begin <= edge and edge <= begin + len(literals[number])
            )
            for edge in (start, end)
        )
        edges.append((first, start - starts[first], last, end - starts[last]))
    return _Frame(literals, tuple(edges), example.places, example.notes)


def _literals(text: str, contents: int) -> tuple[str, ...] | None:
    literals = re.split(f"[{chr(FIRST_SENTINEL)}-{chr(FIRST_SENTINEL + contents)}]", text)
    sentinels = [chr(FIRST_SENTINEL + number) for number in range(contents)]
    return tuple(literals) if len(literals) == contents + 1 and _joined(literals, sentinels) == text else None


def _joined(literals: Sequence[str], contents: Sequence[str]) -> str:
    return "".join([*chain.from_iterable(zip(literals, contents, strict=False)), literals[len(contents)]])


def is_plain(message: Message) -> bool:
    """Return whether a message is only a text, trained or not, that does not begin with reasoning."""
    content = message.get("content")
    if len(message) > 2 and not message.keys() <= PLAIN_KEYS:
        return False
    if type(content) is not str or not content or content.isspace():
        return False
    return content[0] not in BEFORE_MARKS or message["role"] != "assistant" or not split_content(content)[0]
