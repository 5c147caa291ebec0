"""Turns of a conversation, as OpenAI and as ShareGPT write them, checked and in one shape.

A canonical turn has ``role`` and ``content``, and where the raw one has them ``weight`` (0: not trained),
``tool_calls``, ``tool_call_id`` and a tool's ``name``. Texts are taken over exactly as they stand.
"""

from functools import lru_cache
from typing import Any

from snaketune.data.fields import refuse_value
from snaketune.data.parsing import KINDS
from snaketune.data.quarantine import Refusal
from snaketune.data.tool_use import called_function, calls_of, check_results

Turn = dict[str, Any]

WHEN_EMPTY = {"user": "empty_prompt", "assistant": "empty_completion"}
SPEAKERS = tuple(WHEN_EMPTY)
ROLES = ("system", "user", "assistant", "tool")
CALLS = "function_call"
SHAREGPT_ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", CALLS), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}
# Keys of a turn, beside role and content, that must not be written twice either.
RARE_KEYS = ("weight", "tool_calls", "tool_call_id", "name", "arguments")


def conversation(turns: Any, record: dict[str, Any], column: str) -> list[Turn]:
    """Return the turns in a column of ``record``, which must be a whole conversation that ends in an answer.

    Raises:
        Refusal: naming the turn and what is wrong with it.
    """
    messages = read_turns(turns, record, column)
    check_order(messages, column)
    return messages


def read_turns(turns: Any, record: dict[str, Any], column: str) -> list[Turn]:
    """Return the turns in a column of ``record``, each checked by itself.

    Raises:
        Refusal: naming the turn and what is wrong with it.
    """
    if type(turns) is not list:
        raise refuse_value(record, column, "a list of messages")
    messages: list[Turn] = []
    for turn in turns:
        if type(turn) is dict and len(turn) == 2:
            role, content = turn.get("role"), turn.get("content")
            if role in SPEAKERS and type(content) is str and content and not content.isspace():
                messages.append({"role": role, "content": content})
                continue
        messages.append(_checked_turn(turn, f"{column}[{len(messages)}]"))
    return messages


def _checked_turn(turn: Any, place: str) -> Turn:
    if type(turn) is not dict:
        raise Refusal("wrong_type", f"{place} is {KINDS[type(turn)]}, it must be an object with role and content")
    if "from" in turn and "role" not in turn:
        turn = _from_sharegpt(turn, place)
    role = turn.get("role")
    if type(role) is not str:
        raise refuse_value(turn, "role", "text", place)
    if role not in ROLES:
        raise Refusal("bad_role", f"{place} has the role {role[:40]!r}, known are {', '.join(ROLES)}")
    if turn.get("function_call"):
        raise Refusal("unsupported_tool_calls", f"{place} has 'function_call', whose successor is 'tool_calls'")
    calls = turn.get("tool_calls")
    if calls and role != "assistant":
        raise Refusal("bad_tool_call", f"{place} ({role}) has tool calls, which only the assistant makes")
    content = _content_of(turn, place, optional=bool(calls))
    if role in WHEN_EMPTY and not calls and (not content or content.isspace()):
        raise Refusal(WHEN_EMPTY[role], f"{place} ({role}) has no text")
    made: Turn = {"role": role, "content": content}
    if calls:
        made["tool_calls"] = calls_of(calls, place)
    if role == "tool":
        made.update({key: _name(turn, key, place) for key in ("tool_call_id", "name") if turn.get(key) is not None})
    if turn.get("weight") is not None:
        made["weight"] = _weight(turn["weight"], place)
    return made


def _content_of(turn: Turn, place: str, optional: bool) -> str | None:
    """Return the text of a turn; parts are joined when all of them are text."""
    content = turn.get("content")
    if type(content) is str or (optional and content is None):
        return content
    if type(content) is not list:
        raise refuse_value(turn, "content", "text", place)
    texts = [_part(part, f"{place}: content[{index}]") for index, part in enumerate(content)]
    return "".join(texts)


def _part(part: Any, place: str) -> str:
    if type(part) is str:
        return part
    if type(part) is dict and part.get("type") == "text" and type(part.get("text")) is str:
        return part["text"]
    kind = repr(str(part.get("type"))[:40]) if type(part) is dict else KINDS[type(part)]
    raise Refusal("content_not_text", f"{place} is {kind}, not text: only text can be learned")


def _name(turn: Turn, key: str, place: str) -> str:
    if type(turn[key]) is not str:
        raise refuse_value(turn, key, "text", place)
    return turn[key]


def _weight(value: Any, place: str) -> int:
    if type(value) not in (int, float) or value not in (0, 1):
        raise Refusal("bad_weight", f"{place}: 'weight' is {str(value)[:40]}, it must be 0 (not trained) or 1")
    return int(value)


def _from_sharegpt(turn: Turn, place: str) -> Turn:
    speaker, value = turn["from"], turn.get("value")
    if type(speaker) is not str:
        raise refuse_value(turn, "from", "text", place)
    if speaker not in SHAREGPT_ROLES:
        known = ", ".join(SHAREGPT_ROLES)
        raise Refusal("bad_role", f"{place} is from {speaker[:40]!r}, known are {known}")
    if type(value) is not str:
        raise refuse_value(turn, "value", "text", place)
    rest = {key: item for key, item in turn.items() if key not in ("from", "value", "content")}
    if speaker == CALLS:
        return {**rest, "role": "assistant", "content": None, "tool_calls": called_function(value, place)}
    return {**rest, "role": SHAREGPT_ROLES[speaker], "content": value}


def check_order(messages: list[Turn], place: str) -> None:
    """Refuse conversations that do not go system (at most once), user, ..., assistant.

    Raises:
        Refusal: naming the turn that is out of place.
    """
    roles = tuple([message["role"] for message in messages])
    if roles == SPEAKERS:  # a question and its answer, as most are
        return
    if wrong := _wrong_order(roles):
        raise Refusal(*wrong)
    if "tool" in roles:
        check_results(messages, place)


@lru_cache(maxsize=4096)
def _wrong_order(roles: tuple[str, ...]) -> tuple[str, str] | None:
    if "assistant" not in roles:
        return "no_assistant", "there is no assistant message to learn from"
    if roles.count("system") > 1:
        return "duplicate_system", f"there are {roles.count('system')} system messages, at most one is possible"
    if "system" in roles[1:]:
        return "system_not_first", "the system message is not the first message"
    if roles[roles[0] == "system"] == "assistant":
        return "assistant_first", "the assistant speaks before the user"
    if roles[-1] != "assistant":
        return "last_turn_not_assistant", f"the last message is of role {roles[-1]!r}: it has no answer"
    return None
