"""Reasoning before an answer: its marks, its extraction from a content, and its place after a prompt that opens it."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from snaketune.core.canonical import Json
from snaketune.core.errors import DataError

AS_TEMPLATE, TRAIN_REASONING, DROP_REASONING = "auto", "train", "drop"
# Names of reasoning in transformers; most templates read the first one, that of gpt-oss the second.
FIELDS = ("reasoning_content", "thinking", "reasoning")
REASONING_MARKS = (
    ("<think>", "</think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thought>", "</thought>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<|channel>thought\n", "<channel|>"),
    ("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
)
# The beginning of gpt-oss's answer to the user; its reasoning is in other channels before it.
FINAL = "<|channel|>final<|message|>"
_TELLING = (FINAL, *(mark for pair in REASONING_MARKS for mark in pair))
_CLOSING = tuple(closing for _, closing in REASONING_MARKS)
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
# First characters of contents that may begin with marked reasoning.
BEFORE_MARKS = frozenset("<[ \t\r\n")
_READS = re.compile(r"reasoning_content|\.thinking\b|\[\s*['\"]thinking['\"]\s*\]|\.reasoning\b")


def may_reason(message: Json) -> bool:
    """Return, by a cheap test, whether a turn may have reasoning."""
    content = message.get("content")
    return len(message) > 2 or (type(content) is str and content[:1] in BEFORE_MARKS)


def reasoning_of(message: Json) -> str:
    """Return the reasoning of a turn, from a separate field or from the beginning of its content, or ''."""
    own = next((message[name] for name in FIELDS if isinstance(message.get(name), str)), "")
    return own or split_content(message.get("content"))[0]


def split_content(content: Any) -> tuple[str, str]:
    """Return the marked reasoning at the beginning of a content, or '', and the rest of the content."""
    if not isinstance(content, str):
        return "", ""
    if content.lstrip()[:1] not in ("<", "["):
        return "", content
    for opening, closing in REASONING_MARKS:
        if content.lstrip().startswith(opening) and closing in content:
            inside, _, rest = content.lstrip()[len(opening) :].partition(closing)
            return inside.strip("\n"), rest.lstrip("\n")
    return "", content


def reasoning_for_template(messages: list[Json], source: str, setting: str) -> list[Json]:
    """Return messages with reasoning where the template in ``source`` reads it, or without reasoning.

    As in transformers reasoning stands under all its names. A content that begins with marked reasoning is split where
    the template reads a field and knows no marks.
    """
    if not any(
        message["role"] == "assistant" and may_reason(message) and reasoning_of(message) for message in messages
    ):
        return messages
    code = _COMMENT.sub("", source)
    reads = bool(_READS.search(code))
    known = frozenset(closing for _, closing in REASONING_MARKS if closing in code) if reads else frozenset(_CLOSING)
    return [_placed(message, known, setting) if message["role"] == "assistant" else message for message in messages]


def _placed(message: Json, known: Collection[str], setting: str) -> Json:
    """Return the turn; marked reasoning stays in its content if the template handles the closing mark."""
    rest = {key: value for key, value in message.items() if key not in FIELDS}
    reasoning, (marked, content) = reasoning_of(message), split_content(message.get("content"))
    splits = bool(marked) and not any(closing in message["content"] for closing in known)
    if marked and (splits or setting == DROP_REASONING):
        rest["content"] = content
    if setting == DROP_REASONING or not reasoning or (marked and not splits):
        return rest
    return {**rest, "reasoning_content": reasoning, "thinking": reasoning}


def after_thoughts(answer: str) -> str:
    """Return the text after the reasoning of a generated answer, or the whole answer if no reasoning is closed."""
    if FINAL in answer:
        return answer.rpartition(FINAL)[2]
    for _, closing in REASONING_MARKS:
        if closing in answer:
            return answer.rpartition(closing)[2].lstrip("\n")
    return answer


def readable_answer(written: str, special: Iterable[str]) -> str | None:
    """Return a generated answer without special tokens except those that delimit its reasoning.

    Args:
        written: the answer with special tokens spelled out.
        special: the special tokens.

    Returns:
        None where no special token does so, as in most models.
    """
    names = sorted(special, key=lambda name: (-len(name), name))
    telling = [name for name in names if name in written and any(name in mark for mark in _TELLING)]
    if not telling:
        return None
    for name in names:
        written = written if name in telling else written.replace(name, "")
    return written.removeprefix(FINAL)


def opened_reasoning(prompt: str) -> str:
    """Return the marks at the end of a generation prompt that open reasoning, or open and close it, or ''."""
    for opening, closing in REASONING_MARKS:
        pattern = rf"(?:{re.escape(opening)}\s*(?:{re.escape(closing)}\s*)?|{re.escape(closing)}\s*)\Z"
        if found := re.search(pattern, prompt):
            return found.group()
    return ""


def behind(mark: str, answer: str, reasoning: str) -> str:
    """Return what the model has to generate after a prompt that ends with ``mark``.

    Args:
        mark: what :func:`opened_reasoning` returned.
        answer: what the template writes after its header, perhaps with reasoning in marks of its own.
        reasoning: that of the record, '' where there is none.

    Raises:
        DataError: if the prompt closes the reasoning that the record has.
    """
    opening, closing = next(pair for pair in REASONING_MARKS if any(part in mark for part in pair))
    found = re.match(rf"\s*(?:{re.escape(opening)})?(.*?){re.escape(closing)}", answer, re.DOTALL)
    written, rest = (found[1], answer[found.end() :]) if found else ("", answer)
    thought = written.strip() or reasoning.strip("\n")
    if closing in mark:
        if thought:
            raise DataError(
                "the chat template's generation prompt disables reasoning, but the record has some: set "
                "tokens.reasoning to drop, or remove what disables reasoning"
            )
        return rest.lstrip("\n") if found else answer
    if found and written.strip():
        return written.lstrip("\n") + closing + rest
    line = "\n" if mark.endswith("\n") else ""
    # The template closes an empty thought in its own way; where it writes none, as those do that split marked contents.
    before = thought + line if thought else "" if found else line
    return before + closing + (rest if found else 2 * line + rest)


def dropped(messages: Sequence[Json], answers: dict[int, str]) -> int:
    """Return the number of trained turns whose reasoning is missing from their ``answers``, {place: text}."""
    given = {place: reasoning_of(messages[place]) for place in answers if may_reason(messages[place])}
    return sum(
        "".join(reasoning.split()) not in "".join(answers[place].split())
        for place, reasoning in given.items()
        if reasoning
    )
