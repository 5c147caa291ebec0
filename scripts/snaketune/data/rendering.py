"""From a canonical record to the text that is tokenised and what of it is trained, or the reason why there is none."""

import json
from collections.abc import Iterator
from typing import Any

from snaketune.common.errors import ConfigError, DataError
from snaketune.data.encoding import Document
from snaketune.data.records import conversation_of
from snaketune.data.spans import Span
from snaketune.data.templates import ChatTemplate, Message
from snaketune.data.tokenizer import TextTokenizer
from snaketune.data.tool_use import for_template

CONTROL_TOKEN = "control_token_in_content"
REFUSED = "refused_by_template"
NO_TRAINED_TOKEN = "no_trained_token"
NO_PREFERENCE = "no_preference"


class Unusable(Exception):
    """A record that is left out and counted: the reason's code and a sentence."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Renderer:
    """Renders records with one template.

    Args:
        place: name of the split's file, for the sentence of an error.
        pairs: make two documents of each record, which must have a chosen and a rejected answer.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        template: ChatTemplate | None,
        assistant_only: bool,
        place: str,
        pairs: bool = False,
    ):
        self._tokenizer, self._template = tokenizer, template
        self._assistant_only, self._place, self._pairs = assistant_only or pairs, place, pairs

    def render(self, number: int, record: dict[str, Any]) -> tuple[Document, ...]:
        """Return the text of the record on line ``number`` (from 0) and what of it is trained.

        Returns:
            One document or, with ``pairs``, those of the chosen and of the rejected answer.

        Raises:
            Unusable: if a text spells a control token, which must never become one, or the template refuses it.
            ConfigError: if a conversation needs a template and there is none, or a record is no pair.
            DataError: if the template leaves the system message out: it would do so in every record.
        """
        if self._pairs and "rejected" not in record:
            raise ConfigError(
                f"train.method: dpo compares a chosen with a rejected answer, and {self._place} line {number + 1} has"
                " no such pair: set data.format to preference, or train.method to sft."
            )
        if found := self._tokenizer.control_token_in("\n\0\n".join(_texts(record))):
            raise Unusable(CONTROL_TOKEN, f"the text contains the control token {found!r}")
        if "text" in record:
            text = record["text"]
            place = (number, record["source"], record["line"])
            return (Document(*place, text, [(0, len(text))], _size(text), plain=True),)
        return tuple([self._conversation(number, record, messages) for messages in self.conversations(record)])

    def conversations(self, record: dict[str, Any]) -> list[list[Message]]:
        """Return the messages of each document of a record; in pairs the answers of the prompt are not trained."""
        if not self._pairs:
            return [for_template(conversation_of(record))]
        prompt = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in record["messages"]]
        return [for_template(prompt + record[answer]) for answer in ("chosen", "rejected")]

    def _conversation(self, number: int, record: dict[str, Any], messages: list[Message]) -> Document:
        try:
            text, spans = self._chat_template().render_with_spans(messages, record.get("tools"))
            spans = _weighted(spans, messages) if self._assistant_only else [(0, len(text))]
        except DataError as error:
            raise Unusable(REFUSED, str(error)) from None
        self._check_system(number, messages, text)
        size = sum(map(_size, self._trained(messages)))
        return Document(number, record["source"], record["line"], text, spans, size, plain=False)

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            raise ConfigError(
                "tokens.chat_template: the model has no chat template and the data are conversations: set it to chatml"
                " or plain, or to the path of a .jinja file."
            )
        return self._template

    def _check_system(self, number: int, messages: list[Message], text: str) -> None:
        if messages[0]["role"] == "system" and (messages[0]["content"] or "").strip() not in text:
            raise DataError(
                f"{self._place} line {number + 1}: the chat template leaves out the system message: choose one that"
                " writes it (tokens.chat_template), or take the system messages out of the data."
            )

    def _trained(self, messages: list[Message]) -> Iterator[str]:
        for message in messages:
            if not self._assistant_only or (message["role"] == "assistant" and message.get("weight") != 0):
                yield _spoken(message)


def _spoken(message: Message) -> str:
    """Return what an answer says, its calls as JSON: about what any template makes of them."""
    content = message.get("content") or ""
    if "tool_calls" not in message:
        return content
    return content + "".join([json.dumps(call["function"], ensure_ascii=False) for call in message["tool_calls"]])


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _texts(record: dict[str, Any]) -> list[str]:
    """Return every text of a user in a record: contents, and all that tools and their calls are made of."""
    found: list[str] = []
    nested: list[Any] = []
    for part in record.values():
        for message in part if type(part) is list else [part]:
            for value in message.values() if type(message) is dict else [message]:
                (found if type(value) is str else nested).append(value)
    while nested:
        value = nested.pop()
        if type(value) is str:
            found.append(value)
        elif type(value) is dict:
            nested.extend((*value, *value.values()))
        elif type(value) is list:
            nested.extend(value)
    return found


def _weighted(spans: list[Span], messages: list[Message]) -> list[Span]:
    """Return the spans of the answers whose ``weight`` is not 0."""
    weights = [message.get("weight", 1) for message in messages if message["role"] == "assistant"]
    if all(weights):
        return spans
    if len(weights) != len(spans):
        raise DataError(
            f"the chat template marks {len(spans)} stretches for {len(weights)} answers, so that a weight of 0 cannot"
            " be applied"
        )
    return [span for span, weight in zip(spans, weights, strict=True) if weight]
