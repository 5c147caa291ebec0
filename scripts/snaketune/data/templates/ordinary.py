"""The fast path for ordinary records, which most are: plain texts in the main columns, in the usual order.

It gives the same as :mod:`snaketune.data.records.building`, several times as fast. It neither refuses nor counts
anything: for any other record it returns None, and the general path handles it.
"""

from collections.abc import Callable
from typing import Any

from snaketune.core.canonical import Json
from snaketune.data.formats.columns import PLACEHOLDER

# From a record to the canonical record and the number of characters of its texts.
ShortWay = Callable[[Json], tuple[Json, int] | None]

# The roles of an ordinary dialogue; if `data.roles` redefines one of them, the fast path is not used.
ORDINARY_ROLES = frozenset(("system", "user", "assistant"))


def never_ordinary(record: Json) -> None:
    """Return None: no record is ordinary."""


def pair(prompt: str, completion: str, extra: str | None) -> ShortWay:
    """Return the fast path for a question and its answer; ``extra`` is the column of the question's context."""

    def short(record: Json) -> tuple[Json, int] | None:
        asked, answer = record.get(prompt), record.get(completion)
        if type(asked) is not str or type(answer) is not str or not answer or answer.isspace():
            return None
        if extra and (given := record.get(extra)) is not None:
            if type(given) is not str:
                return None
            if given and not given.isspace():
                asked = f"{asked}\n\n{given}" if asked and not asked.isspace() else given
        if not asked or asked.isspace() or ("<" in asked and PLACEHOLDER.search(asked)):
            return None
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return {"messages": messages}, len(asked) + len(answer)

    return short


def conversation(column: str) -> ShortWay:
    """Return the fast path for alternating turns of user and assistant, with or without a system message."""

    def short(record: Json) -> tuple[Json, int] | None:
        turns = record.get(column)
        if type(turns) is not list or not turns:
            return None
        made: list[Json] = []
        is_asked, size = False, 0
        if _is_system(turns[0]):
            content = turns[0]["content"]
            made.append({"role": "system", "content": content})
            turns, size = turns[1:], len(content)
        for turn in turns:
            is_asked = not is_asked
            role = "user" if is_asked else "assistant"
            if type(turn) is not dict or len(turn) != 2 or turn.get("role") != role:
                return None
            content = turn.get("content")
            if type(content) is not str or not content or content.isspace():
                return None
            if is_asked and "<" in content and PLACEHOLDER.search(content):
                return None
            size += len(content)
            made.append({"role": role, "content": content})
        return None if is_asked or not turns else ({"messages": made}, size)

    return short


def text(column: str) -> ShortWay:
    """Return the fast path for plain text."""

    def short(record: Json) -> tuple[Json, int] | None:
        found = record.get(column)
        return ({"text": found}, len(found)) if type(found) is str and found and not found.isspace() else None

    return short


def _is_system(turn: Any) -> bool:
    """Return whether a turn is a system message, possibly empty, without other keys."""
    return type(turn) is dict and turn.get("role") == "system" and len(turn) == 2 and type(turn.get("content")) is str
