"""Prompts with a completion, or with a chosen and a rejected answer.

Each part may be text or turns. The answers of a preference may be whole conversations, whose common beginning is then
the prompt. From a ranked list of answers, the first or best is chosen and the last or worst rejected.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snaketune.data.conversations.conversations import ReadTurn, TurnReader, check_order
from snaketune.data.conversations.marked_up_text import is_marked, turns_in
from snaketune.data.conversations.role_names import ROLE_KEYS
from snaketune.data.conversations.tool_use import called_function, is_calls, written_calls
from snaketune.data.records.fields import answer_of, refuse_value, text_of
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.records.reading_policy import Ranking


@dataclass(frozen=True, slots=True)
class PartReader:
    """Reads a question or an answer, as text or turns; ``rendered`` is the markup of texts that are conversations.

    With ``calls``, answers that are function calls, also as JSON text, become tool calls.
    """

    turns: TurnReader
    rendered: str = ""
    calls: bool = False

    def asked(self, record: Mapping[str, Any], name: str) -> list[ReadTurn]:
        """Return the turns of a prompt.

        Raises:
            Refusal: if it is missing or wrong.
        """
        return self._part(record, name, "user", "empty_prompt")

    def answer(self, record: Mapping[str, Any], name: str) -> list[ReadTurn]:
        """Return the turns of an answer, or of a whole conversation that ends in it.

        Raises:
            Refusal: if it is missing or wrong.
        """
        return self._part(record, name, "assistant", "empty_completion")

    def _part(self, record: Mapping[str, Any], name: str, role: str, when_empty: str) -> list[ReadTurn]:
        value = record.get(name)
        if self.calls and role == "assistant" and (is_calls(value) or value in ([], "[]")):
            return self.turns.read_turns([{"role": role, "content": None, "tool_calls": _calls(value, name)}], {}, name)
        if type(value) is dict and any(key in value for key in ROLE_KEYS):
            return self.turns.read_turns([value], dict(record), name)
        if type(value) is list:
            if value and all(type(item) is str for item in value):
                raise RefusedLine(
                    "wrong_type", f"{name!r} is a list of {len(value)} texts, it must be text or messages"
                )
            return self.turns.read_turns(value, dict(record), name)
        if self.rendered and type(value) is str and (role == "user" or is_marked(value, self.rendered)):
            return self.conversation_in(value, name)
        text = answer_of(record, name) if role == "assistant" else text_of(record, name, when_empty)
        return [{"role": role, "content": text}]

    def conversation_in(self, text: str, name: str) -> list[ReadTurn]:
        """Return the turns of a text in the markup, without an empty assistant turn at the end.

        Raises:
            Refusal: if the text does not consist of turns only.
        """
        found = turns_in(text, self.rendered)
        if found is None:
            raise RefusedLine(
                "not_rendered", f"{name!r} is not a conversation in the markup {self.rendered}, as others are"
            )
        if found[-1][0] == "assistant" and not found[-1][1].strip():
            found.pop()
        return self.turns.read_turns([{"role": role, "content": text} for role, text in found], {}, name)


def _calls(value: Any, name: str) -> list[dict[str, Any]]:
    return called_function(value, name) if type(value) is str else written_calls(value, name)


def preference(
    reader: PartReader, record: Mapping[str, Any], asked: list[ReadTurn], names: tuple[str, str, str]
) -> dict[str, Any]:
    """Return ``{messages, chosen, rejected}`` of a raw record.

    Args:
        reader: reads the parts.
        record: the raw record.
        asked: the turns of the prompt; empty if the answers contain them.
        names: the columns of the prompt, the chosen and the rejected answer.

    Raises:
        Refusal: if a part is missing or wrong, the answers have different prompts (``prompts_differ``) or are equal
            (``no_preference``).
    """
    prompt, chosen, rejected = names
    answers = [reader.answer(record, name) for name in (chosen, rejected)]
    if answers[0] == answers[1]:
        raise RefusedLine("no_preference", f"{chosen!r} and {rejected!r} are the same: neither is preferred")
    if any(answer and answer[0]["role"] != "assistant" for answer in answers):
        asked, answers = _without_prompt(asked, *answers)
    elif not asked:
        raise refuse_value(record, prompt, "text or messages")
    for answer, name in zip(answers, (chosen, rejected), strict=True):
        check_order([*asked, *answer] if answer else [], name)
    return {"messages": asked, "chosen": answers[0], "rejected": answers[1]}


def completed(reader: PartReader, record: Mapping[str, Any], asked: list[ReadTurn], name: str) -> list[ReadTurn]:
    """Return the turns of a prompt and of the completion in column ``name``; answers in the prompt are not trained.

    Raises:
        Refusal: if the completion is missing or wrong, or both do not form a conversation that ends in an answer.
    """
    answer = reader.answer(record, name)
    if not answer:
        raise RefusedLine("empty_completion", f"{name!r} has no messages")
    asked = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in asked]
    check_order([*asked, *answer], name)
    return [*asked, *answer]


def _without_prompt(
    asked: list[ReadTurn], one: list[ReadTurn], other: list[ReadTurn]
) -> tuple[list[ReadTurn], list[list[ReadTurn]]]:
    """Split two whole conversations into their common prompt and the answers; a given prompt must be at its end."""
    # At least one turn of each is left as the answer, even if one conversation is the beginning of the other.
    shared = 0
    while shared < min(len(one), len(other)) - 1 and one[shared] == other[shared]:
        shared += 1
    if not shared or one[shared]["role"] != "assistant" or other[shared]["role"] != "assistant":
        raise RefusedLine("prompts_differ", "the chosen and the rejected conversation differ before their answers")
    common = one[:shared]
    if asked and common[-len(asked) :] != asked:
        raise RefusedLine("prompts_differ", "the conversations do not start with the given prompt")
    return common, [one[shared:], other[shared:]]


def ranked(record: Mapping[str, Any], name: str, ranking: Ranking) -> tuple[Any, Any]:
    """Return the best and the worst answer of a list; among equal scores, the first is best and the last worst.

    Raises:
        Refusal: if there are no answers, or one of them has no score (``no_score``).
    """
    answers = record.get(name)
    if type(answers) is not list or not answers:
        raise refuse_value(record, name, "a list of answers")
    if ranking.text is None:
        if len(answers) != 2:
            raise RefusedLine(
                "not_two_answers", f"{name!r} has {len(answers)} answers, it must have a better and a worse one"
            )
        return answers[0], answers[1]
    scored = [(_score(answer, ranking, f"{name}[{index}]"), index) for index, answer in enumerate(answers)]
    sign = 1 if ranking.lowest_first else -1
    ordered = sorted(scored, key=lambda item: sign * item[0])
    best, worst = answers[ordered[0][1]], answers[ordered[-1][1]]
    return best[ranking.text], worst[ranking.text]


def has_preference(record: Mapping[str, Any], name: str, ranking: Ranking) -> bool:
    """Return whether the best and the worst answer have different scores."""
    if ranking.text is None:
        return True
    return len({_score(answer, ranking, name) for answer in record[name]}) > 1


def _score(answer: Any, ranking: Ranking, place: str) -> float:
    value = answer.get(ranking.score) if type(answer) is dict else None
    if type(value) is str:
        try:
            value = float(value)
        except ValueError:
            value = None
    if not isinstance(value, int | float) or type(answer.get(ranking.text)) is not str:
        raise RefusedLine("no_score", f"{place} has no number {ranking.score!r} or no text {ranking.text!r}")
    return float(value)
