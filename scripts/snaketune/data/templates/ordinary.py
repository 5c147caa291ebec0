"""The short way for ordinary records, which most are: plain texts in the main columns, in the usual order.

It gives what :mod:`snaketune.data.records.building` gives, several times as fast. It neither refuses nor notes
anything: for whatever is out of the ordinary it returns None, and the record goes the long way.
"""

from collections.abc import Callable
from typing import Any

from snaketune.data.formats.columns import PLACEHOLDER

Json = dict[str, Any]
# From a record to the canonical one and the characters of its texts.
ShortWay = Callable[[Json], tuple[Json, int] | None]

# The roles that a dialogue has here; `data.roles` may give them another meaning.
ROLES = frozenset(("system", "user", "assistant"))


def never(record: Json) -> None:
    """Return None: no record is ordinary."""


def pair(prompt: str, completion: str, extra: str | None) -> ShortWay:
    """Return the short way of a question and its answer; ``extra`` is the column of what belongs to the question."""

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
    """Return the short way of texts of user and assistant by turns, perhaps after a system message."""

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
    """Return the short way of plain text."""

    def short(record: Json) -> tuple[Json, int] | None:
        found = record.get(column)
        return ({"text": found}, len(found)) if type(found) is str and found and not found.isspace() else None

    return short


def _is_system(turn: Any) -> bool:
    """Tell whether a turn is a system message, which may be empty, and nothing else."""
    return type(turn) is dict and turn.get("role") == "system" and len(turn) == 2 and type(turn.get("content")) is str
