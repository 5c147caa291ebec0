"""Turns of a conversation, however they are written, checked and in one shape.

A canonical turn has ``role`` and ``content``, and where the raw one has them ``reasoning_content``, ``weight`` (0: not
trained), ``tool_calls``, ``tool_call_id`` and a tool's ``name``. Texts are copied verbatim. Unused keys are reported
with their values.
"""

from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any

from snaketune.data.conversations.role_names import (
    CALL_ROLES,
    CONTENT_KEYS,
    LOSS_KEYS,
    OFFERED_KEYS,
    PART_KEYS,
    REASONING_KEYS,
    ROLE_KEYS,
    ROLES,
    THOUGHT_PARTS,
    alternating,
    modality_of,
    split_turn,
    usual_role,
)
from snaketune.data.conversations.tool_use import (
    bare_calls,
    called_function,
    calls_of,
    check_results,
    with_parts_called,
    written_calls,
)
from snaketune.data.records.fields import OTHER_MODALITY, refuse_value
from snaketune.data.records.parsing import JSON_TYPES
from snaketune.data.records.quarantine import RefusedLine

ReadTurn = dict[str, Any]
Note = Callable[[str, Any], None]

WHEN_EMPTY = {"user": "empty_prompt", "assistant": "empty_completion"}
SPEAKERS = tuple(WHEN_EMPTY)
# Keys that are passed to the chat template if `data.columns` names them.
TEMPLATE_KEYS = ("name", "tool_plan")


def nothing_noted(place: str, value: Any) -> None:
    """Ignore unused keys."""


class TurnReader:
    """Reads the turns of one source.

    Args:
        roles: names of roles, in addition to the usual ones.
        kept: keys of a turn that are kept for the chat template.
        note: called with the path of each unused key, such as ``messages[].id``, and its value.
    """

    def __init__(
        self, roles: dict[str, str] | None = None, kept: Collection[str] = (), note: Note = nothing_noted
    ) -> None:
        self._roles, self._kept, self._note = roles or {}, kept, note
        self._is_plain = not any(name in SPEAKERS for name in self._roles)

    def conversation(self, turns: Any, record: dict[str, Any], column: str) -> list[ReadTurn]:
        """Return the turns in a column of ``record``, which must be a whole conversation that ends in an answer.

        Raises:
            Refusal: naming the turn and what is wrong with it.
        """
        messages = self.read_turns(turns, record, column)
        check_order(messages, column)
        return messages

    def read_turns(self, turns: Any, record: dict[str, Any], column: str) -> list[ReadTurn]:
        """Return the turns in a column of ``record``, each checked by itself.

        Raises:
            Refusal: naming the turn and what is wrong with it.
        """
        if type(turns) is not list:
            raise refuse_value(record, column, "a list of messages")
        if turns and type(turns[0]) is str and len(turns) > 1 and all(type(turn) is str for turn in turns):
            turns = alternating(turns)
        messages: list[ReadTurn] = []
        is_plain = self._is_plain
        for turn in turns:
            if type(turn) is dict and len(turn) == 2 and is_plain:
                role, content = turn.get("role"), turn.get("content")
                if role in SPEAKERS and type(content) is str and content and not content.isspace():
                    messages.append({"role": role, "content": content})
                    continue
            if type(turn) is dict and (several := split_turn(turn, self._roles)):
                messages += [self._checked(one, f"{column}[{len(messages)}]", column) for one in several]
            else:
                messages.append(self._checked(turn, f"{column}[{len(messages)}]", column))
        return messages

    def _checked(self, turn: Any, place: str, column: str) -> ReadTurn:
        if type(turn) is not dict:
            raise RefusedLine(
                "wrong_type", f"{place} is {JSON_TYPES[type(turn)]}, it must be an object with role and content"
            )
        name_key, content_key = key_among(turn, ROLE_KEYS), key_among(turn, CONTENT_KEYS)
        used = {name_key, content_key}
        name = turn.get(name_key)
        if type(name) is not str:
            raise refuse_value(turn, name_key, "text", place)
        role, calls = self._role_and_calls(turn, name, content_key, place, used)
        is_call = name.lower() in CALL_ROLES and usual_role(name, self._roles) is None
        called: list[dict[str, Any]] = []
        content, thought = (
            (None, "") if is_call else self._content(turn, content_key, place, column, bool(calls), called)
        )
        if called:
            calls, content = with_parts_called(calls, called, role, place), content or None
        if role in WHEN_EMPTY and not calls and (not content or content.isspace()):
            raise RefusedLine(WHEN_EMPTY[role], f"{place} ({role}) has no text")
        made: ReadTurn = {"role": role, "content": content}
        if role == "assistant" and (reasoning := _reasoning(turn, thought, place, used)):
            made["reasoning_content"] = reasoning
        if calls:
            made["tool_calls"] = bare_calls(calls, self._note, f"{column}[].tool_calls[]")
        self._add_names(turn, made, place, used)
        if (weight := _weight(turn, role, place, used)) is not None:
            made["weight"] = weight
        if len(turn) > len(used):
            self._note_rest(turn, used, role, column)
        return made

    def _role_and_calls(
        self, turn: ReadTurn, name: str, content_key: str, place: str, used: set[str]
    ) -> tuple[str, list[dict[str, Any]] | None]:
        """Return the role of a turn and its calls, in any of the three notations."""
        role = usual_role(name, self._roles)
        if name.lower() in CALL_ROLES and role is None:
            value = turn.get(content_key)
            if type(value) is not str:
                raise refuse_value(turn, content_key, "text", place)
            return "assistant", called_function(value, place)
        if role is None:
            raise RefusedLine("bad_role", f"{place} has the role {name[:40]!r}, known roles are {', '.join(ROLES)}")
        calls, legacy = turn.get("tool_calls"), turn.get("function_call")
        used.update(key for key in ("tool_calls", "function_call") if key in turn)
        if calls and legacy:
            raise RefusedLine("bad_tool_call", f"{place} has both 'tool_calls' and 'function_call': keep one of them")
        if (calls or legacy) and role != "assistant":
            raise RefusedLine("bad_tool_call", f"{place} ({role}) has tool calls, which only the assistant makes")
        if legacy:
            calls = [{"type": "function", "function": legacy}]
        if type(calls) is str and calls.strip():
            return role, called_function(calls, place)
        return role, calls_of(calls, place) if calls else None

    def _content(
        self, turn: ReadTurn, key: str, place: str, column: str, optional: bool, called: list[dict[str, Any]]
    ) -> tuple[str | None, str]:
        """Return the text of a turn and the reasoning among its parts, each joined; append calls to ``called``."""
        content = turn.get(key)
        if type(content) is str or (optional and content is None):
            return content, ""
        if type(content) is dict and type(content.get("parts")) is list:
            content = content["parts"]
        if type(content) is not list:
            raise refuse_value(turn, key, "text", place)
        texts: list[str] = []
        thoughts: list[str] = []
        for index, part in enumerate(content):
            if type(part) is dict and part.get("type") in CALL_ROLES:
                called += self._called(part, f"{place}: {key}[{index}]", f"{column}[].{key}[]")
                continue
            is_thought = type(part) is dict and part.get("type") in THOUGHT_PARTS
            text = self._part(part, f"{place}: {key}[{index}]", f"{column}[].{key}[]", is_thought)
            (thoughts if is_thought else texts).append(text)
        return "".join(texts), "".join(thoughts)

    def _called(self, part: dict[str, Any], place: str, path: str) -> list[dict[str, Any]]:
        """Return the calls of a part that is a call, as JSON text or an object."""
        key = next((key for key in (*PART_KEYS, *CALL_ROLES) if type(part.get(key)) in (str, dict, list)), None)
        if key is None:
            raise RefusedLine("bad_tool_call", f"{place} is an empty call")
        for other in part.keys() - {"type", key}:
            self._note(f"{path}.{other}", part[other])
        value = part[key]
        return called_function(value, place) if type(value) is str else written_calls(value, place)

    def _part(self, part: Any, place: str, path: str, is_thought: bool) -> str:
        if type(part) is str:
            return part
        kind = part.get("type") if type(part) is dict else None
        if type(part) is dict and (is_thought or kind in (None, "text", "input_text", "output_text")):
            keys = [key for key in (*(THOUGHT_PARTS if is_thought else ()), *PART_KEYS) if type(part.get(key)) is str]
            if keys:
                for key in part.keys() - {"type", keys[0]}:
                    self._note(f"{path}.{key}", part[key])
                found: str = part[keys[0]]
                return found
        if modality := modality_of(part):
            raise RefusedLine(OTHER_MODALITY, f"{place} is {modality}, which a text model cannot process")
        shown = repr(str(kind)[:40]) if type(part) is dict else JSON_TYPES[type(part)]
        raise RefusedLine("content_not_text", f"{place} is {shown}, not text: only text can be trained on")

    def _add_names(self, turn: ReadTurn, made: ReadTurn, place: str, used: set[str]) -> None:
        wanted = ("tool_call_id", "name", *self._kept) if made["role"] == "tool" else self._kept
        for key in wanted:
            if key in turn:
                used.add(key)
            if turn.get(key) is not None:
                if type(turn[key]) is not str:
                    raise refuse_value(turn, key, "text", place)
                made[key] = turn[key]

    def _note_rest(self, turn: ReadTurn, used: set[str], role: str, column: str) -> None:
        for key, value in turn.items():
            if key not in used and not (key in OFFERED_KEYS and role == "system"):
                self._note(f"{column}[].{key}", value)


def key_among(turn: ReadTurn, keys: tuple[str, ...]) -> str:
    """Return which of the keys a turn has, or the first key if it has none."""
    for key in keys:
        if key in turn:
            return key
    return keys[0]


def offered_in(turns: Any) -> Any:
    """Return the tools in a separate key of the raw system message, or None."""
    first = turns[0] if type(turns) is list and turns else None
    if type(first) is not dict or len(first) < 3:
        return None
    return next((first[key] for key in OFFERED_KEYS if first.get(key)), None)


def _reasoning(turn: ReadTurn, thought: str, place: str, used: set[str]) -> str | None:
    found = {key: turn[key] for key in REASONING_KEYS if turn.get(key) is not None}
    used.update(key for key in REASONING_KEYS if key in turn)
    for key in found:
        if type(found[key]) is not str:
            raise refuse_value(turn, key, "text", place)
    texts = {text for text in (*found.values(), thought) if text}
    if len(texts) > 1:
        where = " and ".join(repr(key) for key in found)
        raise RefusedLine("two_reasonings", f"{place} has different texts in {where or 'its parts'}: keep one of them")
    return texts.pop() if texts else None


def _weight(turn: ReadTurn, role: str, place: str, used: set[str]) -> int | None:
    """Return 0 or 1 if a turn says whether it is trained, under any known key; only answers can be trained."""
    found: dict[str, int] = {}
    for key in LOSS_KEYS:
        if key not in turn:
            continue
        value = turn[key]
        if value is None:
            used.add(key)
            continue
        if type(value) not in (int, float, bool) or value not in (0, 1):
            raise RefusedLine("bad_weight", f"{place}: {key!r} is {str(value)[:40]}, it must be 0 (not trained) or 1")
        if value == 0 or role == "assistant":
            used.add(key)
            found[key] = int(value)
    if len(set(found.values())) > 1:
        raise RefusedLine("bad_weight", f"{place}: {' and '.join(map(repr, found))} contradict each other")
    return next(iter(found.values()), None)


def check_order(messages: list[ReadTurn], place: str) -> None:
    """Refuse conversations that are not system (at most once), user, ..., assistant.

    Raises:
        Refusal: naming the turn that is out of place.
    """
    roles = tuple([message["role"] for message in messages])
    if roles == SPEAKERS:  # a question and its answer, as most are
        return
    if wrong := _wrong_order(roles):
        raise RefusedLine(*wrong)
    if "tool" in roles:
        check_results(messages, place)


@lru_cache(maxsize=4096)
def _wrong_order(roles: tuple[str, ...]) -> tuple[str, str] | None:
    if "assistant" not in roles:
        return "no_assistant", "there is no assistant message to learn from"
    if roles.count("system") > 1:
        return "duplicate_system", f"there are {roles.count('system')} system messages, at most one is allowed"
    if "system" in roles[1:]:
        return "system_not_first", "the system message is not the first message"
    if roles[roles[0] == "system"] == "assistant":
        return "assistant_first", "the assistant speaks before the user"
    if roles[-1] != "assistant":
        return "last_turn_not_assistant", f"the last message has the role {roles[-1]!r}: there is no answer"
    return None
