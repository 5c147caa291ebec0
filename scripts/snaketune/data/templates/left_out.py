"""The check that a chat template writes everything: contents, tool calls, tool results and the tools on offer.

A template may change white space, quote texts as JSON, and drop marked reasoning of earlier turns. Everything else in a
record must be in the text; otherwise the model would learn from something other than the data, in silence.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from snaketune.core.errors import DataError
from snaketune.data.conversations.reasoning import split_content
from snaketune.data.templates.templates import Message

# Switches for reasoning, which some templates obey instead of writing them.
_SWITCH = re.compile(r"/(?:no_?)?think\b|detailed thinking (?:on|off)")
# White space and quoting may legitimately differ, so texts are compared without them.
_SQUEEZED = re.compile(r"[\s\\\"'`]+")


class LeftOut(DataError):
    """A conversation that the template does not write completely.

    Attributes:
        role: the role whose text is missing, or ``tools`` or ``names``.
    """

    def __init__(self, role: str, what: str):
        super().__init__(f"the chat template leaves out {what}")
        self.role = role


def check_text_written(
    messages: Sequence[Message], text: str, answers: dict[int, str], tools: list[dict[str, Any]] | None
) -> None:
    """Refuse a conversation if a part of it is missing from the text.

    Args:
        messages: the messages of the text.
        text: the example.
        answers: the trained segments of the text by the index of their message.
        tools: the tools on offer.

    Raises:
        LeftOut: for the first missing part.
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
        # A trained answer must be complete in its own span: the same words elsewhere in the text would not be trained.
        inside = squeezed(answers[place]) if place in answers else whole
        for what, value in _parts(message):
            if not squeezed(_SWITCH.sub("", value)):
                continue
            if not any(form in inside for form in _forms(value, place not in answers)):
                raise LeftOut(message["role"], what)


def _names(message: Message) -> Iterator[tuple[str, str]]:
    """Yield the fields of a turn that it has only because ``data.columns`` names them."""
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
    # Templates that drop the reasoning of earlier turns cut after the last mark.
    if is_history and "</think>" in value:
        yield squeezed(value.split("</think>")[-1])


def squeezed(text: str) -> str:
    """Return ``text`` without white space, quotes and backslashes."""
    return _SQUEEZED.sub("", text)
