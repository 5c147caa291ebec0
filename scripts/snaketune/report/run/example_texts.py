"""Training examples as the model sees them: the trained parts and the context."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snaketune.report import units
from snaketune.report.report_facts import RunPageFacts
from snaketune.report.text import visible

EXAMPLE_CHARACTERS = 4000
SHOWN_EXAMPLES = 3
# Keys of an example and what they hold when it is a pair; any other has the first alone.
ANSWER_KEYS = {"tokens": ", the chosen answer", "rejected": ", the rejected answer"}


@dataclass(frozen=True, slots=True)
class Stretch:
    """A token or a stretch of tokens, with line ends marked, and whether the loss covers it."""

    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class ShownExample:
    """The beginning of one training document and a sentence about it."""

    stretches: tuple[Stretch, ...]
    summary: str


def examples(facts: RunPageFacts) -> tuple[ShownExample, ...]:
    """Return up to three training examples; a pair gives two, its chosen and its rejected answer."""
    shown = facts.tokens["examples"][:SHOWN_EXAMPLES]
    return tuple(example_of(example, answer) for example in shown for answer in ANSWER_KEYS if answer in example)


def example_of(example: Mapping[str, Any], answer: str, where: str = "Line {} of train.jsonl") -> ShownExample:
    """Return one document of an example of the facts: under ``tokens``, or the rejected answer of a pair.

    ``where`` says which record it is, by its number.
    """
    pieces = [(str(token.get("text") or ""), bool(token.get("trained"))) for token in example.get(answer) or []]
    length = sum(len(text) for text, _ in pieces)
    trained = sum(len(text) for text, is_trained in pieces if is_trained)
    record = example.get("record")
    which = ANSWER_KEYS[answer] if "rejected" in example else ""
    place = "" if record is None else f"{where.format(units.count(record + 1))}{which}: "
    summary = f"{place}{units.count(trained)} of {units.count(length, 'character')} trained"
    if length > EXAMPLE_CHARACTERS:
        summary += f", the first {units.count(EXAMPLE_CHARACTERS)} shown"
    return ShownExample(tuple(_beginning(pieces)), summary)


def _beginning(pieces: Sequence[tuple[str, bool]]) -> Iterator[Stretch]:
    left = EXAMPLE_CHARACTERS
    for text, trained in pieces:
        if left <= 0:
            return
        yield Stretch(visible(text[:left]).replace("\n", "\u21b5\n"), trained)
        left -= len(text)
