"""What a chat template leaves out of its text: contents, calls, results of tools, and the tools that are offered.

A template may change white space, quote texts as JSON and drop marked reasoning of earlier turns. All else that a
record says must be in the text, else the model would learn from something other than the data.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from snaketune.core.errors import DataError
from snaketune.data.conversations.reasoning import split_content
from snaketune.data.templates.templates import Message

# Words that switch reasoning on or off, which templates obey instead of writing them.
_SWITCH = re.compile(r"/(?:no_?)?think\b|detailed thinking (?:on|off)")
_SQUEEZED = re.compile(r"[\s\\\"'`]+")


class LeftOut(DataError):
    """A conversation of which the template does not write everything.

    Attributes:
        role: whose text is missing, or ``tools`` or ``names``.
    """

    def __init__(self, role: str, what: str):
        super().__init__(f"the chat template leaves out {what}")
        self.role = role


def check_written(
    messages: Sequence[Message], text: str, answers: dict[int, str], tools: list[dict[str, Any]] | None
) -> None:
    """Refuse a conversation of which a part is missing.

    Args:
        messages: those that stand in the text.
        text: the example.
        answers: the trained stretches of the text by the place of their message.
        tools: what is offered.

    Raises:
        LeftOut: naming the first part that is missing.
    """
    whole = squeezed(text)
    for tool in tools or ():
        name = tool.get("function", tool).get("name") if isinstance(tool.get("function", tool), dict) else None
        if isinstance(name, str) and squeezed(name) not in whole:
            raise LeftOut("tools", f"the offered tools ({name!r}): it does not support tools")
    for place, message in enumerate(messages):
        for what, value in _names(message):
            if squeezed(value) not in whole:
                raise LeftOut("names", what)
        inside = squeezed(answers[place]) if place in answers else whole
        for what, value in _parts(message):
            if not squeezed(_SWITCH.sub("", value)):
                continue
            if not any(form in inside for form in _forms(value, place not in answers)):
                raise LeftOut(message["role"], what)


def _names(message: Message) -> Iterator[tuple[str, str]]:
    """Yield what a turn has beside its text only where ``data.columns`` names it."""
    if message["role"] != "tool":
        for key in ("name", "tool_plan"):
            if isinstance(message.get(key), str):
                yield f"the {key} of a turn ({message['role']}), which data.columns names", message[key]


def _parts(message: Message) -> Iterator[tuple[str, str]]:
    role, content = message["role"], message.get("content")
    if role == "assistant":
        yield "an answer's text", split_content(content)[1]
    elif isinstance(content, str):
        named = {"system": "the system message", "user": "a question's text", "tool": "a tool's result"}
        yield named.get(role, f"the text of the {role}"), content
    for call in message.get("tool_calls", ()):
        function = call.get("function", call)
        yield f"a call of {function['name']!r}", function["name"]
        for key, value in _strings(function.get("arguments")):
            yield f"an argument of the call of {function['name']!r} ({key})", value


def _strings(arguments: Any) -> Iterator[tuple[str, str]]:
    if isinstance(arguments, dict):
        for key, value in arguments.items():
            yield key, key
            if isinstance(value, str):
                yield key, value
            else:
                yield from ((key, inner) for _, inner in _strings(value))
    elif isinstance(arguments, list):
        for value in arguments:
            yield from [("", value)] if isinstance(value, str) else _strings(value)


def _forms(value: str, is_history: bool) -> Iterator[str]:
    yield squeezed(value)
    for ascii_only in (False, True):
        yield squeezed(json.dumps(value, ensure_ascii=ascii_only))
    if _SWITCH.search(value):
        yield squeezed(_SWITCH.sub("", value))
    # Templates that take thoughts out of earlier turns cut at the last mark.
    if is_history and "</think>" in value:
        yield squeezed(value.split("</think>")[-1])


def squeezed(text: str) -> str:
    """Return ``text`` without white space, quotes and backslashes."""
    return _SQUEEZED.sub("", text)
