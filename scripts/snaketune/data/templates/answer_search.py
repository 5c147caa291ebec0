"""Search for the beginning of an answer in a text that does not start with the inference prompt, and for its end.

Templates that rewrite earlier turns, or the last question, write something other than the inference prompt before an
answer. The answer is then found after a part that both have in common: the header of the generation prompt, or the end
of the previous turn. That part must contain a control token, which no content can spell, so content cannot imitate it.
"""

import json
import re
from collections.abc import Iterator, Sequence

from snaketune.data.conversations.marked_up_text import END_MARKS
from snaketune.data.conversations.reasoning import split_content
from snaketune.data.templates.templates import Message


def after_header(whole: str, prompt: str, header: str, control: re.Pattern[str]) -> str | None:
    """Return the text of ``whole`` after the header of its last answer, or None if the header is ambiguous.

    Args:
        whole: the rendered history and answer.
        prompt: the inference prompt, without reasoning marks at its end.
        header: the part of the prompt after the history, without these marks.
        control: matches any control token.
    """
    if not prompt.endswith(header) or not control.search(header):
        return None
    # Earlier answers have the same header: exactly one more of them than in the history must be in the text.
    before = prompt.removesuffix(header).count(header)
    parts = whole.split(header, before + 1)
    return parts[-1] if len(parts) == before + 2 else None


def after_history(
    whole: str, prompt: str, silent: str, history: Sequence[Message], message: Message, control: re.Pattern[str]
) -> str | None:
    """Return the text of ``whole`` after the last turn of the history, or None if its end is ambiguous.

    Args:
        whole: as in :func:`after_header`.
        prompt: as in :func:`after_header`.
        silent: the history, rendered without the generation prompt.
        history: the turns before the answer.
        message: the answer.
        control: matches any control token.
    """
    if whole.startswith(silent) and _begins_with_text(whole[len(silent) :], message):
        return whole[len(silent) :]
    said = next((turn["content"] for turn in reversed(history) if turn.get("content")), "")
    for text in (prompt, silent):
        for form in _forms(said):
            at = text.rfind(form)
            key = text[at:]
            if at < 0 or not control.search(key[len(form) :]) or (begin := whole.rfind(key)) < 0:
                continue
            answer = whole[begin + len(key) :]
            if text == prompt or _begins_with_text(answer, message):
                return answer
    return None


def _forms(said: str) -> Iterator[str]:
    if said.strip():
        yield said
        yield said.strip()
        yield json.dumps(said, ensure_ascii=False)[1:-1]


def _begins_with_text(answer: str, message: Message) -> bool:
    """Return whether an answer starts with its text, not with a header, for example, that inference does not give."""
    content = split_content(message.get("content"))[1].strip()
    return bool(content) and answer.lstrip().startswith(content)


def end_of_text(answer: str, message: Message) -> str:
    """Return an answer without the white space that the template adds after it."""
    # White space at the end of the content itself is the author's and stays.
    content = message.get("content") or ""
    at = answer.rfind(content) + len(content)
    ends = bool(content) and content in answer and not answer[at:].strip()
    return answer[:at] if ends else answer.rstrip()


def wrong_end(answer: str, message: Message) -> str:
    """Return the end mark, such as <|im_end|>, that the template writes as ordinary text after an answer, or ''."""
    content = (message.get("content") or "").rstrip()
    marks = (mark for mark in END_MARKS if answer.rstrip().endswith(mark) and not content.endswith(mark))
    return next(marks, "")
