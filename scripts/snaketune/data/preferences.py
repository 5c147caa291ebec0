"""A prompt with its completion, or with an answer that was chosen and one that was rejected.

Each may be text or turns. The answers of a preference may be whole conversations: what these have in common is then
the prompt.
"""

from typing import Any

from snaketune.data.conversations import Turn, check_order, read_turns
from snaketune.data.fields import refuse_value, text_of
from snaketune.data.quarantine import Refusal


def preference(record: dict[str, Any], prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    """Return ``{messages, chosen, rejected}`` of a raw record, given the names of its columns.

    Raises:
        Refusal: if a part is missing or wrong, the answers share no prompt (``prompts_differ``) or are the same
            (``no_preference``).
    """
    asked = _part(record, prompt, "user", "empty_prompt") if record.get(prompt) is not None else []
    answers = [_part(record, name, "assistant", "empty_completion") for name in (chosen, rejected)]
    if answers[0] == answers[1]:
        raise Refusal("no_preference", f"{chosen!r} and {rejected!r} are the same: neither is preferred")
    if any(answer and answer[0]["role"] != "assistant" for answer in answers):
        asked, answers = _without_prompt(asked, *answers)
    elif not asked:
        raise refuse_value(record, prompt, "text or messages")
    for answer, name in zip(answers, (chosen, rejected), strict=True):
        check_order([*asked, *answer] if answer else [], name)
    return {"messages": asked, "chosen": answers[0], "rejected": answers[1]}


def completed(record: dict[str, Any], prompt: str, completion: str) -> list[Turn]:
    """Return the turns of prompt and completion, given the names of their columns; the prompt is not trained.

    Raises:
        Refusal: if a part is missing or wrong, or both are no conversation that ends in an answer.
    """
    for name in (prompt, completion):
        if type(record.get(name)) not in (str, list):
            raise refuse_value(record, name, "text or a list of messages")
    asked = _part(record, prompt, "user", "empty_prompt")
    answer = _part(record, completion, "assistant", "empty_completion")
    if not answer:
        raise Refusal("empty_completion", f"{completion!r} has no messages")
    asked = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in asked]
    check_order([*asked, *answer], completion)
    return [*asked, *answer]


def _part(record: dict[str, Any], name: str, role: str, when_empty: str) -> list[Turn]:
    value = record.get(name)
    if type(value) is dict:
        return read_turns([value], record, name)
    if type(value) is list:
        return read_turns(value, record, name)
    return [{"role": role, "content": text_of(record, name, when_empty)}]


def _without_prompt(asked: list[Turn], one: list[Turn], other: list[Turn]) -> tuple[list[Turn], list[list[Turn]]]:
    """Take the turns that two whole conversations begin with as the prompt; it must end in the one that is given."""
    shared = 0
    while shared < min(len(one), len(other)) - 1 and one[shared] == other[shared]:
        shared += 1
    if not shared or one[shared]["role"] != "assistant" or other[shared]["role"] != "assistant":
        raise Refusal("prompts_differ", "the chosen and the rejected conversation differ before their answers")
    if asked and one[:shared][-len(asked) :] != asked:
        raise Refusal("prompts_differ", "the conversations do not begin with the prompt that is given")
    return one[:shared], [one[shared:], other[shared:]]
