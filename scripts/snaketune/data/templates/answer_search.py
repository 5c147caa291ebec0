"""Where an answer begins in a text that does not begin with the prompt of inference, and where it ends without a token.

Templates that rewrite earlier turns, or the last question, write something else before an answer than the prompt that
inference gives. The answer is then found behind what both have in common: the header of the generation prompt, or the
end of the turn before. Both must hold a control token, which no content spells.
"""

import json
import re
from collections.abc import Iterator, Sequence

from snaketune.data.conversations.marked_up_text import END_MARKS
from snaketune.data.conversations.reasoning import split_content
from snaketune.data.templates.templates import Message


def after_header(whole: str, prompt: str, header: str, control: re.Pattern[str]) -> str | None:
    """Return what ``whole`` writes after the header of its last answer, None where the header does not tell.

    Args:
        whole: the history and the answer, rendered.
        prompt: the prompt of inference, without marks of reasoning at its end.
        header: what it ends with beyond the history, without these marks.
    """
    if not prompt.endswith(header) or not control.search(header):
        return None
    before = prompt.removesuffix(header).count(header)
    parts = whole.split(header, before + 1)
    return parts[-1] if len(parts) == before + 2 else None


def after_history(
    whole: str, prompt: str, silent: str, history: Sequence[Message], message: Message, control: re.Pattern[str]
) -> str | None:
    """Return what ``whole`` writes after the last turn of the history, None where that does not tell.

    Args:
        whole, prompt: as :func:`after_header` takes them.
        silent: the history, rendered without the generation prompt.
        message: the answer.
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
    """Tell whether nothing stands before the text of an answer, such as a header that inference does not give."""
    content = split_content(message.get("content"))[1].strip()
    return bool(content) and answer.lstrip().startswith(content)


def end_of_text(answer: str, message: Message) -> str:
    """Return an answer without the white space that the template writes after it."""
    content = message.get("content") or ""
    at = answer.rfind(content) + len(content)
    ends = bool(content) and content in answer and not answer[at:].strip()
    return answer[:at] if ends else answer.rstrip()


def wrong_end(answer: str, message: Message) -> str:
    """Return the mark of another template's end that the template writes after an answer as mere text, or ''."""
    content = (message.get("content") or "").rstrip()
    marks = (mark for mark in END_MARKS if answer.rstrip().endswith(mark) and not content.endswith(mark))
    return next(marks, "")
