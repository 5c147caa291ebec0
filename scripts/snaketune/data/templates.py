"""Chat templates: one rendering per conversation, with the character spans that the assistant speaks.

The environment is the one that transformers renders templates in (sandboxed, same filters), without its clock:
``strftime_now`` is undefined, so that a template never writes today's date into training data.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from snaketune.common.errors import ConfigError, DataError
from snaketune.data.spans import Message, Span, SpanFinder

# The words with which Qwen 2.5 and Hermes offer tools.
OFFER = (
    "{{ '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are provided with"
    " function signatures within <tools></tools> XML tags:\\n<tools>\\n' }}"
    "{% for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}"
    "{{ '</tools>\\n\\nFor each function call, return a json object with function name and arguments within"
    ' <tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}'
    "\\n</tool_call>' }}"
)


def _said(end: str, before: str, after: str = "''") -> str:
    """Return the part of a template that writes an answer, or calls with or without words before them.

    Arguments may be an object or, as OpenAI has it, JSON text. The variable ``loop`` would make each turn of every
    conversation slower, so that ``gap`` holds what stands before the next call.
    """
    return (
        "{% if 'tool_calls' in message and message['tool_calls'] %}"
        "{% set gap = namespace(text=message['content'] + '\\n' if message['content'] else '') %}{% generation %}"
        "{% for call in message['tool_calls'] %}{% set called = call['function'] or call %}"
        f"{{{{ gap.text + {before} + '{{\"name\": ' + called['name'] | tojson + ', \"arguments\": ' }}}}"
        "{{ called['arguments'] if called['arguments'] is string else called['arguments'] | tojson }}"
        f"{{{{ '}}' + {after} }}}}{{% set gap.text = '\\n' %}}{{% endfor %}}{{{{ {end} }}}}{{% endgeneration %}}"
        f"{{% else %}}{{% generation %}}{{{{ message['content'] + {end} }}}}{{% endgeneration %}}{{% endif %}}"
    )


BUILT_IN = {
    "chatml": (
        "{% if tools %}{{ '<|im_start|>system\\n' }}"
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}"
        + OFFER
        + "{{ '<|im_end|>\\n' }}{% endif %}"
        "{% for message in messages %}{% if not tools or message['role'] != 'system' %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}"
        + _said("'<|im_end|>'", "'<tool_call>\\n'", "'\\n</tool_call>'")
        + "{{ '\\n' }}{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "plain": (
        "{{ bos_token }}"
        "{% if tools %}{{ '### Tools:\\n' }}{% for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}"
        "{{ '\\n' }}{% endif %}{% for message in messages %}{{ '### ' + message['role'] | capitalize + ':\\n' }}"
        "{% if message['role'] == 'assistant' %}"
        + _said("eos_token", "'Call: '")
        + "{{ '\\n\\n' }}{% else %}{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
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
        environment.filters["_note_generation"] = self._note

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A filter is called directly; a macro, which does the same in transformers, takes several times as long.
        note = jinja2.nodes.Filter(None, "_note_generation", [], [], None, None)
        return jinja2.nodes.FilterBlock(body, note).set_lineno(line)

    def _note(self, text):
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


def choose_template(setting: str | None, own: str | None) -> str | None:
    """Return the source of the chat template in force.

    Args:
        setting: ``tokens.chat_template``: null, a built-in name, a path or a template.
        own: the template that comes with the tokenizer.

    Raises:
        ConfigError: if the setting is none of these.
    """
    if setting is None:
        return own
    if setting in BUILT_IN:
        return BUILT_IN[setting]
    if "{{" in setting or "{%" in setting:
        return setting
    path = Path(setting)
    if path.suffix == ".jinja" and path.is_file():
        return path.read_text(encoding="utf-8")
    raise ConfigError(
        f"tokens.chat_template: {setting!r} is neither a .jinja file nor one of {', '.join(sorted(BUILT_IN))}:"
        " check the spelling or the path."
    )


class ChatTemplate:
    """A compiled chat template with the special tokens of its tokenizer.

    Args:
        source: the Jinja text.
        special_tokens: ``bos_token`` and so on, as the template may write them.
        control: matches any control token, which no message contains; without it spans of templates that rewrite
            earlier turns cannot be told.
    """

    def __init__(self, source: str, special_tokens: dict[str, str], control: re.Pattern[str] | None = None):
        self.source = source
        environment = _environment()
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"tokens.chat_template: line {error.lineno} is not valid Jinja ({error.message}): correct the template."
            ) from None
        self._notes: _Notes = environment.notes  # type: ignore[attr-defined]
        # A plain dict of what never changes: jinja2 would merge its layers of globals anew for each record.
        self._constants = {**self._template.globals, **special_tokens, "documents": None}
        self.marks_generation = "generation" in _tags(environment, source)
        self._finder = SpanFinder(self.render, control)

    def render(
        self, messages: Sequence[Message], add_generation_prompt: bool = False, tools: list[Message] | None = None
    ) -> str:
        """Return the text of a conversation, in which ``tools`` are offered.

        Raises:
            DataError: when the template refuses the conversation, with its own words.
        """
        return "".join(self._blocks(messages, add_generation_prompt, tools))

    def render_with_spans(
        self, messages: Sequence[Message], tools: list[Message] | None = None
    ) -> tuple[str, list[Span]]:
        """Return the text of a conversation and the half-open character spans of the assistant's turns.

        A span starts after the template's own generation prompt and ends after the end-of-turn token. Templates
        with ``{% generation %}`` say so themselves; for others see :class:`~snaketune.data.spans.SpanFinder`.

        Raises:
            DataError: when the template refuses the conversation or rewrites earlier turns, so that spans
                cannot be told.
        """
        text = "".join(self._blocks(messages, False, tools))
        return text, list(self._notes.spans) if self.marks_generation else self._finder.find(messages, text, tools)

    def _blocks(self, messages: Sequence[Message], prompt: bool, tools: list[Message] | None) -> list[str]:
        template, notes = self._template, self._notes
        notes.blocks, notes.spans = [], []
        given = {"messages": messages, "tools": tools, "add_generation_prompt": prompt}
        variables = {**self._constants, **given}
        context = template.environment.context_class(template.environment, variables, template.name, template.blocks)
        try:
            for block in template.root_render_func(context):
                notes.blocks.append(block)
        except (jinja2.TemplateError, TypeError, KeyError, ValueError, OverflowError, RecursionError) as error:
            raise DataError(f"the chat template refuses this conversation: {error}") from None
        return notes.blocks


def _tags(environment: ImmutableSandboxedEnvironment, source: str) -> set[str]:
    """Return the names that open a block in ``source``, comments and raw text left aside."""
    tokens = [(kind, value) for _, kind, value in environment.lex(source) if kind != "whitespace"]
    return {value for (kind, _), (_, value) in pairwise(tokens) if kind == "block_begin"}
