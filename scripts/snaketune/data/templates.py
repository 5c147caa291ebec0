"""Chat templates: one rendering per conversation, with the character spans that the assistant speaks.

The environment is the one that transformers renders templates in (sandboxed, same filters), without its clock:
``strftime_now`` is undefined, so that a template never writes today's date into training data.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from snaketune.common.errors import ConfigError, DataError

Message = dict[str, Any]
Span = tuple[int, int]

BUILT_IN = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
        "{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
        "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "plain": (
        "{{ bos_token }}{% for message in messages %}{{ '### ' + message['role'] | capitalize + ':\\n' }}"
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
        "{{ '\\n\\n' }}{% else %}{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
    ),
}


@dataclass(slots=True)
class _Notes:
    """What was rendered so far and which spans of it the assistant speaks."""

    blocks: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)


class _Generation(Extension):
    """The ``{% generation %}`` tag: it notes where the text that it wraps lands in the output."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def __init__(self, environment):
        super().__init__(environment)
        environment.extend(notes=_Notes())

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    def _note(self, caller):
        text = caller()
        notes: _Notes = self.environment.notes  # type: ignore[attr-defined]
        start = sum(map(len, notes.blocks))
        notes.spans.append((start, start + len(text)))
        return text


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    return environment


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str):
    raise jinja2.exceptions.TemplateError(message)


class ChatTemplate:
    """A compiled chat template with the special tokens of its tokenizer."""

    def __init__(self, source: str, special_tokens: dict[str, str]):
        self.source = source
        self._variables = {"bos_token": "", "eos_token": "", "pad_token": "", "unk_token": "", **special_tokens}
        self._environment = _environment()
        try:
            self._template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"tokens.chat_template: line {error.lineno} is not valid Jinja ({error.message}): correct the template."
            ) from None
        self.marks_generation = "{% generation" in source or "{%- generation" in source

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """Return the text of a conversation.

        Raises:
            DataError: when the template refuses the conversation, with its own words.
        """
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._variables,
            )
        except (jinja2.TemplateError, TypeError, KeyError, OverflowError) as error:
            raise DataError(f"the chat template refuses this conversation: {error}") from None

    def render_with_spans(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """Return the text of a conversation and the half-open character spans of the assistant's turns.

        A span starts after the template's own generation prompt and ends after the end-of-turn token. Templates
        with ``{% generation %}`` say so themselves; for others each prefix of the conversation is rendered.

        Raises:
            DataError: when the template refuses the conversation or rewrites earlier turns, so that spans
                cannot be told.
        """
        if not self.marks_generation:
            return self._spans_from_prefixes(messages)
        notes: _Notes = self._environment.notes  # type: ignore[attr-defined]
        notes.blocks, notes.spans = [], []
        try:
            for block in self._template.generate(
                messages=messages, add_generation_prompt=False, tools=None, documents=None, **self._variables
            ):
                notes.blocks.append(block)
        except (jinja2.TemplateError, TypeError, KeyError, OverflowError) as error:
            raise DataError(f"the chat template refuses this conversation: {error}") from None
        return "".join(notes.blocks), notes.spans

    def _spans_from_prefixes(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        text = self.render(messages)
        spans = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.render(messages[:index], add_generation_prompt=True)
            after = self.render(messages[: index + 1])
            if not text.startswith(before) or not text.startswith(after) or len(after) <= len(before):
                raise DataError(
                    "the chat template rewrites earlier turns, so that the answer cannot be told from the prompt: set"
                    " tokens.chat_template to one with {% generation %} markers"
                )
            spans.append((len(before), len(before) + len(after[len(before) :].rstrip())))
        return text, spans
