"""Tools in conversations, in OpenAI's format: calls by the assistant, results, and the tools on offer.

They are kept as they are, since the chat template turns them into text.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson

from snaketune.data.records.parsing import JSON_TYPES, refuse_any_repeated, refuse_changed_in_text
from snaketune.data.records.quarantine import RefusedLine

# From 2**53 on not every integer is a double, and the parser reads integers beyond 64 bits as doubles.
LARGEST_EXACT = float(1 << 53)
# orjson cannot serialise more than 254 levels of nesting.
DEEPEST = 100
CALL_KEYS = ("id", "type", "function")
FUNCTION_KEYS = ("name", "arguments")


def calls_of(calls: Any, place: str) -> list[dict[str, Any]]:
    """Return the tool calls of an assistant's turn.

    Raises:
        Refusal: with the reason ``bad_tool_call``, ``inexact_number`` or ``too_deep``.
    """
    if type(calls) is not list:
        raise RefusedLine(
            "bad_tool_call", f"{place}: 'tool_calls' is {JSON_TYPES[type(calls)]}, it must be a list of calls"
        )
    for index, call in enumerate(calls):
        _check_call(call, f"{place}: tool_calls[{index}]")
    _check_written(calls, place)
    return calls


def _check_call(call: Any, place: str) -> None:
    function = call.get("function", call) if type(call) is dict else None
    if function is not None and type(call.get("id", "")) is not str:
        raise RefusedLine("bad_tool_call", f"{place} has an id that is {JSON_TYPES[type(call['id'])]}, not text")
    if type(function) is not dict or type(function.get("name")) is not str or not function["name"]:
        raise RefusedLine("bad_tool_call", f"{place} names no function")
    arguments = function.get("arguments")
    if type(arguments) is str:
        try:
            arguments = _read(arguments, f"{place}: the arguments")
        except orjson.JSONDecodeError as error:
            raise RefusedLine("bad_tool_call", f"{place} has arguments that are not JSON ({error.msg})") from None
    if type(arguments) is not dict:
        raise RefusedLine(
            "bad_tool_call", f"{place} has arguments that are {JSON_TYPES[type(arguments)]}, not an object"
        )


def bare_calls(calls: list[dict[str, Any]], note: Callable[[str, Any], None], path: str) -> list[dict[str, Any]]:
    """Return calls with their meaningful keys only; ``note`` receives the place and value of each other key."""
    return [_bare(call, note, path) for call in calls]


def _bare(call: dict[str, Any], note: Callable[[str, Any], None], path: str) -> dict[str, Any]:
    if "function" not in call:
        return _only(call, (*CALL_KEYS, *FUNCTION_KEYS), note, path)
    bare = _only(call, CALL_KEYS, note, path)
    return {**bare, "function": _only(call["function"], FUNCTION_KEYS, note, f"{path}.function")}


def _only(value: dict[str, Any], keys: Sequence[str], note: Callable[[str, Any], None], path: str) -> dict[str, Any]:
    for key in value.keys() - set(keys):
        note(f"{path}.{key}", value[key])
    return {key: item for key, item in value.items() if key in keys}


def is_calls(value: Any) -> bool:
    """Return whether a value is function calls, or their JSON text: ``[{"name": …, "arguments": …}]``."""
    if type(value) is str:
        if not value.lstrip().startswith(("[", "{")):
            return False
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return False
    calls = value if type(value) is list else [value]
    return bool(calls) and all(_is_call(call) for call in calls)


def _is_call(value: Any) -> bool:
    if type(value) is not dict:
        return False
    function = value.get("function", value)
    named = type(function) is dict and type(function.get("name")) is str
    return named and ("arguments" in function or "parameters" in function)


def with_parts_called(
    calls: list[dict[str, Any]] | None, called: list[dict[str, Any]], role: str, place: str
) -> list[dict[str, Any]]:
    """Return the calls among the parts of a content, which only an assistant without other calls may have.

    Raises:
        Refusal: with the reason ``bad_tool_call``.
    """
    if role != "assistant":
        raise RefusedLine("bad_tool_call", f"{place} ({role}) has tool calls, which only the assistant makes")
    if calls:
        raise RefusedLine("bad_tool_call", f"{place} has both 'tool_calls' and calls among its parts: keep one of them")
    return called


def called_function(value: str, place: str) -> list[dict[str, Any]]:
    """Return the calls that ShareGPT writes as the text of a turn: ``{"name", "arguments"}`` or a list of these.

    Raises:
        Refusal: with the reason ``bad_tool_call``, ``inexact_number`` or ``too_deep``.
    """
    try:
        written = _read(value, f"{place}: the call")
    except orjson.JSONDecodeError as error:
        raise RefusedLine("bad_tool_call", f"{place} is a call that is not JSON ({error.msg})") from None
    return written_calls(written, place)


def written_calls(written: Any, place: str) -> list[dict[str, Any]]:
    """Return the calls of one function or of a list of them, each ``{"name", "arguments"}`` or in OpenAI form.

    Raises:
        Refusal: with the reason ``bad_tool_call``, ``inexact_number`` or ``too_deep``.
    """
    functions = written if type(written) is list else [written]
    if not functions:
        raise RefusedLine("bad_tool_call", f"{place} is an empty call")
    is_whole = [type(function) is dict and type(function.get("function")) is dict for function in functions]
    calls = [
        function if whole else {"type": "function", "function": function}
        for function, whole in zip(functions, is_whole, strict=True)
    ]
    return calls_of(calls, place)


def tools_of(value: Any, name: str) -> list[dict[str, Any]] | None:
    """Return the tools that a record offers, None if it has none; JSON text is parsed.

    Raises:
        Refusal: with the reason ``bad_tools``, ``inexact_number`` or ``too_deep``.
    """
    if not value or (type(value) is str and value.isspace()):
        return None
    try:
        tools = _read(value, repr(name)) if type(value) is str else value
    except orjson.JSONDecodeError as error:
        raise RefusedLine("bad_tools", f"{name!r} is text that is not JSON ({error.msg})") from None
    if type(tools) is not list or any(type(tool) is not dict for tool in tools):
        raise RefusedLine("bad_tools", f"{name!r} is not a list of objects")
    _check_written(tools, name)
    return tools or None


def calls_for_template(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages in the form that transformers passes to chat templates.

    Arguments of calls become objects: OpenAI's JSON text would be quoted a second time by templates that use tojson.
    Keys with null values are left out, since many templates would write ``None``.
    """
    for message in messages:
        if len(message) != 2 or message["content"] is None:
            return [_for_template(message) for message in messages]
    return messages


def _for_template(message: dict[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in message.items() if value is not None}
    if "tool_calls" in given:
        given["tool_calls"] = [_with_object(call) for call in given["tool_calls"]]
    return given


def _with_object(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    if type(function["arguments"]) is str:
        # Unlike orjson this keeps whole numbers of any length.
        function = {**function, "arguments": json.loads(function["arguments"])}
    return {**call, "function": function} if "function" in call else {"type": "function", "function": function}


def check_results(messages: Sequence[dict[str, Any]], place: str) -> None:
    """Refuse a tool result without a call.

    It must follow an answer or another result, and refer to one of the calls if both have ids.

    Raises:
        Refusal: with the reason ``tool_without_call``.
    """
    ids: set[Any] | None = None
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            ids = {call.get("id") for call in message.get("tool_calls", ())} - {None}
        elif message["role"] != "tool":
            ids = None
        elif ids is None:
            raise RefusedLine("tool_without_call", f"{place}[{index}] is a tool result without a preceding call")
        elif ids and message.get("tool_call_id", next(iter(ids))) not in ids:
            called = message["tool_call_id"][:40]
            raise RefusedLine("tool_without_call", f"{place}[{index}] answers the call {called!r}, which was not made")


def _read(text: str, place: str) -> Any:
    """Return the value of JSON text inside a record, in which repeated keys are refused as well."""
    value = orjson.loads(text)
    for _ in _levels(value, place):
        pass
    refuse_any_repeated(text, place)
    refuse_changed_in_text(text)
    return value


def _check_written(value: Any, place: str) -> None:
    """Refuse values that would be written differently from how they were read, or cannot be written."""
    for level in _levels(value, place):
        for number in level:
            if type(number) is float and abs(number) >= LARGEST_EXACT:
                raise RefusedLine(
                    "inexact_number", f"{place} holds {number:g}, more digits than can be kept: write it as a string"
                )


def _levels(value: Any, place: str) -> Iterator[list[Any]]:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise RefusedLine("too_deep", f"{place} is nested more than {DEEPEST} levels deep")
        yield level
        level = [inner for outer in level for inner in _inside(outer)]


def _inside(value: Any) -> Iterable[Any]:
    if type(value) is dict:
        return value.values()
    return value if type(value) is list else ()
