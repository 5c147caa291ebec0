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
from snaketune.data.parsing import KINDS
from snaketune.data.quarantine import Refusal

Json = dict[str, Any]
Converter = Callable[[Json], Json]
Names = Mapping[str, str]

WHEN_EMPTY = {"user": "empty_prompt", "assistant": "empty_completion"}
ROLES = ("system", *WHEN_EMPTY)
TOOLS = ("tool_calls", "function_call")
KEYS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Format:
    """A shape of records: its columns under their canonical names and how a record of it is converted.

    ``inner`` are the keys of the objects inside a column.
    """

    name: str
    required: tuple[str, ...]
    converter: Callable[[Names], Converter]
    optional: tuple[str, ...] = ()
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
    """Return the converter of conversations: a list of objects with role and content."""
    column = names["messages"]

    def convert(record: Json) -> Json:
        turns = record.get(column)
        if type(turns) is not list:
            raise _refuse_value(record, column, "a list of messages")
        messages = [_turn(turn, f"{column}[{index}]") for index, turn in enumerate(turns)]
        _check_order([message["role"] for message in messages])
        return {"messages": messages}

    return convert


def _turn(turn: Any, place: str) -> Json:
    if type(turn) is not dict:
        raise Refusal("wrong_type", f"{place} is {KINDS[type(turn)]}, it must be an object with role and content")
    role = turn.get("role")
    if type(role) is not str:
        raise _refuse_value(turn, "role", "text", place)
    if role not in ROLES:
        raise Refusal("bad_role", f"{place} has the role {role[:40]!r}, known are {', '.join(ROLES)}")
    if len(turn) > 2 and any(turn.get(key) for key in TOOLS):
        raise Refusal("unsupported_tool_calls", f"{place} has tool calls, which would be lost")
    content = turn.get("content")
    if type(content) is not str:
        raise _refuse_value(turn, "content", "text", place)
    if role in WHEN_EMPTY and (not content or content.isspace()):
        raise Refusal(WHEN_EMPTY[role], f"{place} ({role}) has no text")
    return {"role": role, "content": content}


def _check_order(roles: list[str]) -> None:
    """Refuse conversations that do not go system (at most once), user, ..., assistant."""
    if "assistant" not in roles:
        raise Refusal("no_assistant", "there is no assistant message to learn from")
    if roles.count("system") > 1:
        raise Refusal("duplicate_system", f"there are {roles.count('system')} system messages, at most one is possible")
    if "system" in roles[1:]:
        raise Refusal("system_not_first", "the system message is not the first message")
    if roles[roles[0] == "system"] == "assistant":
        raise Refusal("assistant_first", "the assistant speaks before the user")
    if roles[-1] != "assistant":
        raise Refusal("last_turn_not_assistant", f"the last message is of role {roles[-1]!r}: it has no answer")


def instruction_converter(names: Names) -> Converter:
    """Return the converter of Alpaca records; an input follows the instruction after a blank line."""
    instruction, extra, output = names["instruction"], names["input"], names["output"]

    def convert(record: Json) -> Json:
        prompt = _text(record, instruction, "empty_prompt")
        answer = _text(record, output, "empty_completion")
        given = record.get(extra)
        if given is not None and type(given) is not str:
            raise _refuse_value(record, extra, "text")
        return _dialogue(f"{prompt}\n\n{given}" if given and not given.isspace() else prompt, answer)

    return convert


def prompt_converter(names: Names) -> Converter:
    """Return the converter of prompt and completion: one question and its answer."""
    prompt, completion = names["prompt"], names["completion"]
    return lambda record: _dialogue(
        _text(record, prompt, "empty_prompt"), _text(record, completion, "empty_completion")
    )


def text_converter(names: Names) -> Converter:
    """Return the converter of plain text, all of which is learned."""
    text = names["text"]
    return lambda record: {"text": _text(record, text, "empty_text")}


def _dialogue(prompt: str, answer: str) -> Json:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def _text(record: Json, name: str, when_empty: str) -> str:
    value = record.get(name)
    if type(value) is not str:
        raise _refuse_value(record, name, "text")
    if not value or value.isspace():
        raise Refusal(when_empty, f"{name!r} has no text")
    return value


def _refuse_value(record: Json, name: str, expected: str, place: str = "") -> Refusal:
    inside = f"{place}: " if place else ""
    if name not in record:
        return Refusal("missing_field", f"{inside}there is no {name!r}; found: {listed(record)}")
    if record[name] is None:
        return Refusal("null_content", f"{inside}{name!r} is null, it must be {expected}")
    return Refusal("wrong_type", f"{inside}{name!r} is {KINDS[type(record[name])]}, it must be {expected}")


def listed(names: Iterable[str]) -> str:
    """Return names for a sentence: the first twelve, long ones shortened."""
    shown = [name if len(name) <= 40 else f"{name[:40]}…" for name in names]
    return ", ".join(shown[:KEYS_SHOWN]) + (", …" if len(shown) > KEYS_SHOWN else "") or "nothing"


FORMATS = {
    format.name: format
    for format in (
        Format("messages", ("messages",), messages_converter, inner=("role", "content")),
        Format("instruction", ("instruction", "output"), instruction_converter, optional=("input",)),
        Format("prompt_completion", ("prompt", "completion"), prompt_converter),
        Format("text", ("text",), text_converter),
    )
}


def detect(records: Iterable[Json], columns: Names) -> Format | None:
    """Return the format that most of ``records`` have, or None when none of them has any."""
    votes: Counter[str] = Counter()
    for record in records:
        votes.update([name for name, format in FORMATS.items() if format.fits(record, columns)][:1])
    return max(FORMATS.values(), key=lambda format: votes[format.name]) if votes else None


def check_columns(wanted: str, columns: Names) -> None:
    """Check that ``data.columns`` maps columns that ``data.format`` has.

    Raises:
        ConfigError: naming the nearest column.
    """
    formats = FORMATS.values() if wanted == "auto" else (FORMATS[wanted],)
    known = [name for format in formats for name in format.columns]
    for name in columns:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"use {', '.join(known)}."
            raise ConfigError(f"data.columns: {name!r} is no column of data.format {wanted}: {hint}")
