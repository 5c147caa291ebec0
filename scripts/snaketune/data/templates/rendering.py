"""Rendering of canonical records: the text to tokenise and its trained spans, or why the record is left out."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from snaketune.core.errors import ConfigError, DataError
from snaketune.core.training_methods import PREFERENCE
from snaketune.data.conversations import reasoning
from snaketune.data.conversations.role_names import ROLES
from snaketune.data.conversations.tool_use import calls_for_template
from snaketune.data.records.canonical_records import conversation_of
from snaketune.data.records.margins import MARGIN
from snaketune.data.sources.source_names import place_of
from snaketune.data.templates.examples import ExampleFinder, TrainingText
from snaketune.data.templates.left_out import LeftOut, check_text_written
from snaketune.data.templates.role_tokens import foreign_tokens
from snaketune.data.templates.templates import ChatTemplate, Message
from snaketune.data.tokens.encoding import EncodedRecord
from snaketune.data.tokens.tokenizer import TextTokenizer

CONTROL_TOKEN = "control_token_in_content"
REFUSED_BY_TEMPLATE = "refused_by_template"
LEFT_OUT_BY_TEMPLATE = "left_out_by_template"
NO_REASONING = "reasoning_left_out"
NO_TRAINED_TOKEN = "no_trained_token"
NO_PREFERENCE = "no_preference"
BOTH_ANSWERS = ("chosen", "rejected")


class Unusable(Exception):
    """A record that is left out and counted, with a reason code and a sentence."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Renderer:
    """Renders records with one template.

    Args:
        place: name of the split's file, for error messages.
        method: ``train.method``; preference methods make two documents of a record with a chosen and a rejected
            answer, and kto makes one of a record with either.
        reasoning: handling of reasoning: ``auto``, ``train`` or ``drop``.
        sources: the source files of the records, for error messages.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        template: ChatTemplate | None,
        assistant_only: bool,
        place: str,
        method: str = "sft",
        reasoning: str = reasoning.AS_TEMPLATE,
        sources: Sequence[str] = (),
    ):
        self._tokenizer, self._template = tokenizer, template
        pairs = method in PREFERENCE
        self._assistant_only, self._place, self._pairs, self._method = assistant_only or pairs, place, pairs, method
        self._reasoning, self._sources = reasoning, sources
        control, stops, eos = tokenizer.control_tokens, tokenizer.stops, tokenizer.end_token
        finder = ExampleFinder(template, control, stops, eos) if template else None
        self.finder = finder
        # The fast path does not search roles for control tokens, so it is off if a role itself spells one.
        is_role_control = bool(tokenizer.control_token_in(" ".join(ROLES)))
        self._has_short_way = bool(finder) and assistant_only and not pairs and not is_role_control

    def render(self, number: int, record: dict[str, Any]) -> tuple[EncodedRecord, ...]:
        """Return the documents of the record on line ``number`` (from 0): its texts and their trained spans.

        Returns:
            One document, or several if answers need separate examples (see
            :class:`~snaketune.data.templates.examples.ExampleFinder`); with a preference method, the documents of the
            chosen and the rejected answer.

        Raises:
            Unusable: if a text spells a control token, which must not be tokenised as one, or the template refuses
                the record.
            ConfigError: if a conversation needs a template and the model has none, or a record is not a pair.
            DataError: if the template leaves out the system message, as it would in every record.
        """
        if self._pairs:
            self._require_answers(number, record)
        if self._has_short_way and (texts := _ordinary(record)):
            self._check_texts(texts)
            if short := self._of_ordinary(number, record):
                return short
        self._check_texts(_texts(record))
        if "text" in record:
            text = record["text"]
            place = (number, record["source"], record["line"])
            return (EncodedRecord(*place, text, [(0, len(text))], _size(text), plain=True),)
        documents: list[EncodedRecord] = []
        for messages in self.conversations(record):
            made = self._documents(number, record, messages)
            if not made:
                raise Unusable(
                    NO_TRAINED_TOKEN,
                    "no answer is trained: none both has a non-zero weight and is marked by the chat template's "
                    "generation blocks (if it has any)",
                )
            if self._pairs and len(made) != 1:
                raise Unusable(
                    REFUSED_BY_TEMPLATE,
                    "an answer that is compared has several turns that the chat template does not keep together",
                )
            documents += made
        if self._pairs and "chosen" not in record:
            return tuple(replace(document, rejected=True) for document in documents)
        if MARGIN in record:
            return tuple(replace(document, margin=record[MARGIN]) for document in documents)
        return tuple(documents)

    def _require_answers(self, number: int, record: dict[str, Any]) -> None:
        have = [answer for answer in BOTH_ANSWERS if answer in record]
        if self._method == "kto" and not have:
            raise ConfigError(
                f"train.method: kto learns from good and bad answers, and {self.place(number, record)} has no label:"
                " name its column in data.columns.label, or set train.method to sft."
            )
        if self._method != "kto" and "rejected" not in record:
            raise ConfigError(
                f"train.method: {self._method} compares a chosen with a rejected answer, but "
                f"{self.place(number, record)} has no such pair: set data.format to preference, or train.method to sft."
            )

    def _check_texts(self, texts: list[str]) -> None:
        # The separator keeps a token from being found across two texts; no control token contains a NUL.
        if found := self._tokenizer.control_token_in("\n\0\n".join(texts)):
            raise Unusable(CONTROL_TOKEN, f"the text contains the control token {found!r}")

    def _of_ordinary(self, number: int, record: dict[str, Any]) -> tuple[EncodedRecord, ...]:
        """Return the documents of a record that is :func:`_ordinary`, or none if it needs the general path."""
        assert self.finder is not None
        messages = record["messages"]
        try:
            examples = self.finder.of_plain(messages)
        except DataError:  # the general path classifies the error
            return ()
        documents: list[EncodedRecord] = []
        for example in examples or ():
            spans, sizes = example.spans, tuple([_size(messages[place]["content"]) for place in example.places])
            own = (example.text, list(spans), sum(sizes), False, len(spans), 0, sizes)
            documents.append(EncodedRecord(number, record["source"], record["line"], *own, notes=example.notes))
        return tuple(documents)

    def place(self, number: int, record: dict[str, Any]) -> str:
        """Return the place of a record: the user's file and line, or those of the split if the file is unknown."""
        return place_of(record, self._sources, f"{self._place} line {number + 1}")

    def conversations(self, record: dict[str, Any]) -> list[list[Message]]:
        """Return the messages of each conversation of a record; in pairs, answers in the prompt are not trained."""
        if not self._pairs:
            return [self._given(conversation_of(record))]
        # Earlier answers are shared by both documents of a pair and would cancel in the margin.
        prompt = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in record["messages"]]
        return [self._given(prompt + record[answer]) for answer in BOTH_ANSWERS if answer in record]

    def _given(self, messages: list[Message]) -> list[Message]:
        source = self._template.source if self._template else ""
        return reasoning.reasoning_for_template(calls_for_template(messages), source, self._reasoning)

    def _documents(self, number: int, record: dict[str, Any], messages: list[Message]) -> list[EncodedRecord]:
        tools = record.get("tools")
        try:
            examples = self._examples(messages, tools)
        except LeftOut as error:
            if error.role == "system":
                # f"{self.place
                raise DataError(
                    f"{self.place(number, record)}: {error}: choose one that writes it (tokens.chat_template), or "
                    "remove the system messages from the data."
                ) from None
            raise Unusable(LEFT_OUT_BY_TEMPLATE, str(error)) from None
        except DataError as error:
            raise Unusable(REFUSED_BY_TEMPLATE, str(error)) from None
        return [self._document(number, record, messages, example) for example in examples]

    def _examples(self, messages: list[Message], tools: list[Message] | None) -> list[TrainingText]:
        self._chat_template()
        assert self.finder is not None
        if self._assistant_only:
            return self.finder.find(messages, tools)
        text = self._chat_template().render(messages, False, tools)
        check_text_written(messages, text, {}, tools)
        return [TrainingText(text, ((0, len(text)),), (), len(messages))]

    def _document(
        self, number: int, record: dict[str, Any], messages: list[Message], example: TrainingText
    ) -> EncodedRecord:
        lost = 0
        if self._reasoning != reasoning.DROP_REASONING and any(
            reasoning.may_reason(messages[place]) for place in example.places
        ):
            spans = zip(example.places, example.spans, strict=True)
            lost = reasoning.dropped(messages, {place: example.text[start:end] for place, (start, end) in spans})
        if lost and self._reasoning == reasoning.TRAIN_REASONING:
            raise Unusable(
                NO_REASONING,
                "the chat template leaves out the reasoning of an answer: choose one that writes it"
                " (tokens.chat_template), or set tokens.reasoning to auto",
            )
        chosen = [messages[place] for place in example.places] if self._assistant_only else messages
        sizes = tuple([_size(_spoken(message)) for message in chosen])
        answers = len(example.spans) if self._assistant_only else 0
        place = (number, record["source"], record["line"])
        parts = list(example.spans)
        return EncodedRecord(*place, example.text, parts, sum(sizes), False, answers, lost, sizes, example.notes)

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids at which answers end and the ids that occur only in turns of other roles, both ascending."""
        if self.finder is None or self._template is None or not self._assistant_only:
            return self._tokenizer.ids_of(self._tokenizer.stops), np.empty(0, np.int32)
        ends = self.finder.turns.ends
        foreign = foreign_tokens(self._template.render, self._tokenizer.control_tokens, ends)
        return self._tokenizer.ids_of(ends), self._tokenizer.ids_of(foreign)

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            raise ConfigError(
                "tokens.chat_template: the model has no chat template and the data are conversations: set it to chatml"
                " or plain, or to the path of a .jinja file."
            )
        return self._template


def _spoken(message: Message) -> str:
    """Return the text of an answer with its calls as JSON, an approximation of what any template writes."""
    content = (message.get("reasoning_content") or "") + (message.get("content") or "")
    if "tool_calls" not in message:
        return content
    return content + "".join(
        [json.dumps(call.get("function", call), ensure_ascii=False) for call in message["tool_calls"]]
    )


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _ordinary(record: dict[str, Any]) -> list[str] | None:
    """Return the texts of a conversation whose messages have only a role and a plain text, else None.

    Most records are of this kind; they are not searched again for calls, reasoning or weights.
    """
    messages = record.get("messages")
    if messages is None or len(record) != 3:  # source and line
        return None
    texts: list[str] = []
    for message in messages:
        content = message["content"]
        if len(message) != 2 or not content or content.isspace():
            return None
        if content[0] in reasoning.BEFORE_MARKS and message["role"] == "assistant":
            return None
        texts.append(content)
    return texts


def _texts(record: dict[str, Any]) -> list[str]:
    """Return every text of a record that a user supplied: contents, and all strings in tools and calls."""
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
