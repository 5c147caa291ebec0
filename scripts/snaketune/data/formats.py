"""Shapes of raw records and how each becomes a canonical one; text is taken over exactly as it stands.

A format is a row of :data:`FORMATS`: the columns that it needs, and a function that is given the file's names for
them and returns a converter. The order is the precedence when a record would fit several.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from snaketune.common.errors import ConfigError
from snaketune.data.conversations import conversation
from snaketune.data.fields import refuse_value, text_of
from snaketune.data.preferences import completed, preference
from snaketune.data.tool_use import tools_of

Json = dict[str, Any]
Converter = Callable[[Json], Json]
Names = Mapping[str, str]

# The format whose records are pairs of answers.
PAIRS = "preference"


@dataclass(frozen=True, slots=True)
class Format:
    """A shape of records: its columns under their canonical names and how a record of it is converted.

    ``turns`` are the columns that hold lists of turns, ``inner`` the keys that every turn has once.
    """

    name: str
    required: tuple[str, ...]
    converter: Callable[[Names], Converter]
    optional: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that the format uses."""
        return self.required + self.optional

    def names(self, columns: Names) -> dict[str, str]:
        """Return the file's name of each column."""
        return {name: columns.get(name, name) for name in self.columns}

    def fits(self, record: Json, columns: Names) -> bool:
        """Tell whether ``record`` has every required column."""
        return all(columns.get(name, name) in record for name in self.required)


def messages_converter(names: Names) -> Converter:
    """Return the converter of conversations as OpenAI writes them: objects with role and content."""
    column, tools = names["messages"], names["tools"]

    def convert(record: Json) -> Json:
        return _with_tools({"messages": conversation(record.get(column), record, column)}, record, tools)

    return convert


def sharegpt_converter(names: Names) -> Converter:
    """Return the converter of ShareGPT conversations: objects with from and value; ``system`` may be a column."""
    column, system, tools = names["conversations"], names["system"], names["tools"]

    def convert(record: Json) -> Json:
        messages = conversation(record.get(column), record, column)
        given = record.get(system)
        if given is not None and type(given) is not str:
            raise refuse_value(record, system, "text")
        if given and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": given})
        return _with_tools({"messages": messages}, record, tools)

    return convert


def preference_converter(names: Names) -> Converter:
    """Return the converter of preferences: a prompt, the chosen and the rejected answer."""
    parts, tools = (names["prompt"], names["chosen"], names["rejected"]), names["tools"]
    return lambda record: _with_tools(preference(record, *parts), record, tools)


def _with_tools(converted: Json, record: Json, name: str) -> Json:
    if name in record and (tools := tools_of(record[name], name)):
        converted["tools"] = tools
    return converted


def instruction_converter(names: Names) -> Converter:
    """Return the converter of Alpaca records; an input follows the instruction after a blank line."""
    instruction, extra, output = names["instruction"], names["input"], names["output"]

    def convert(record: Json) -> Json:
        prompt = text_of(record, instruction, "empty_prompt")
        answer = text_of(record, output, "empty_completion")
        given = record.get(extra)
        if given is not None and type(given) is not str:
            raise refuse_value(record, extra, "text")
        return _dialogue(f"{prompt}\n\n{given}" if given and not given.isspace() else prompt, answer)

    return convert


def prompt_converter(names: Names) -> Converter:
    """Return the converter of prompt and completion: one question and its answer, or the turns of both."""
    prompt, completion, tools = names["prompt"], names["completion"], names["tools"]

    def convert(record: Json) -> Json:
        asked, answer = record.get(prompt), record.get(completion)
        if type(asked) is type(answer) is str and asked.strip() and answer.strip():
            converted = _dialogue(asked, answer)
        else:
            converted = {"messages": completed(record, prompt, completion)}
        return _with_tools(converted, record, tools)

    return convert


def text_converter(names: Names) -> Converter:
    """Return the converter of plain text, all of which is learned."""
    text = names["text"]
    return lambda record: {"text": text_of(record, text, "empty_text")}


def _dialogue(prompt: str, answer: str) -> Json:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


FORMATS = {
    format.name: format
    for format in (
        Format(
            "messages",
            ("messages",),
            messages_converter,
            optional=("tools",),
            turns=("messages",),
            inner=("role", "content"),
        ),
        Format(
            "sharegpt",
            ("conversations",),
            sharegpt_converter,
            optional=("system", "tools"),
            turns=("conversations",),
            inner=("from", "value", "role", "content"),
        ),
        Format(
            "preference",
            ("chosen", "rejected"),
            preference_converter,
            optional=("prompt", "tools"),
            turns=("prompt", "chosen", "rejected"),
            inner=("role", "content", "from", "value"),
        ),
        Format("instruction", ("instruction", "output"), instruction_converter, optional=("input",)),
        Format(
            "prompt_completion",
            ("prompt", "completion"),
            prompt_converter,
            optional=("tools",),
            turns=("prompt", "completion"),
            inner=("role", "content", "from", "value"),
        ),
        Format("text", ("text",), text_converter),
    )
}


def converter_of(format: Format, names: Names, pairs: bool) -> Converter:
    """Return the converter of a format; unless ``pairs`` are wanted, a preference is a conversation like any other.

    Its messages are then the prompt and the chosen answer, in every stage from here on.
    """
    convert = format.converter(names)
    return convert if pairs or format.name != PAIRS else lambda record: _without_rejected(convert(record))


def _without_rejected(converted: Json) -> Json:
    rest = {key: value for key, value in converted.items() if key not in ("chosen", "rejected")}
    return {**rest, "messages": converted["messages"] + converted["chosen"]}


def detect(records: Iterable[Json], columns: Names, pairs: bool = False) -> Format | None:
    """Return the format that most of ``records`` have, or None when none of them has any; ``pairs`` admits one."""
    votes: Counter[str] = Counter()
    admitted = [FORMATS[PAIRS]] if pairs else list(FORMATS.values())
    for record in records:
        votes.update([format.name for format in admitted if format.fits(record, columns)][:1])
    return max(FORMATS.values(), key=lambda format: votes[format.name]) if votes else None


def check_columns(wanted: str, columns: Names) -> None:
    """Check that ``data.columns`` maps columns that ``data.format`` has.

    Raises:
        ConfigError: naming the nearest column.
    """
    formats = FORMATS.values() if wanted == "auto" else (FORMATS[wanted],)
    known = list(dict.fromkeys(name for format in formats for name in format.columns))
    for name in columns:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"use {', '.join(known)}."
            raise ConfigError(f"data.columns: {name!r} is no column of data.format {wanted}: {hint}")
