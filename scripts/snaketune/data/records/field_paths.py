"""Paths inside a record: ``answer``, ``answers.text[0]``, ``instances[0].output``, ``messages[].name``."""

import re
from functools import lru_cache
from typing import Any

ABSENT = object()
PATH_STEP = re.compile(r"\[(\d*)\]|\.?([^.\[\]]+)")


@lru_cache(maxsize=4096)
def path_steps(path: str) -> tuple[str | int, ...]:
    """Return the keys and list indices of a path; ``[]`` is the key ``""``."""
    steps: list[str | int] = []
    for match in PATH_STEP.finditer(path):
        steps.append(int(match[1]) if match[1] else match[2] or "")
    return tuple(steps)


def column_of(path: str) -> str:
    """Return the column at the beginning of a path."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def value_at(record: dict[str, Any], path: str) -> Any:
    """Return the value at ``path``, or :data:`ABSENT`; a column whose whole name is ``path`` takes precedence."""
    if path in record:
        return record[path]
    value: Any = record
    for step in path_steps(path):
        if type(step) is int:
            if type(value) is not list or step >= len(value):
                return ABSENT
        elif type(value) is not dict or step not in value:
            return ABSENT
        value = value[step]
    return value


def values_at(record: dict[str, Any], path: str) -> list[Any]:
    """Return all values at a path in which ``[]`` means each item of a list."""
    if path in record:
        return [record[path]]
    found: list[Any] = [record]
    for step in path_steps(path):
        if step == "":
            found = [item for value in found if type(value) is list for item in value]
        elif type(step) is int:
            found = [value[step] for value in found if type(value) is list and step < len(value)]
        else:
            found = [value[step] for value in found if type(value) is dict and step in value]
    return found


def values_beside(record: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the values beside ``path`` in its column, by their own paths."""
    if path in record:
        return {}
    found: dict[str, Any] = {}
    value: Any = record
    done = ""
    for step in path_steps(path):
        if type(step) is int:
            if type(value) is not list or step >= len(value):
                break
            # Items next to the one that the path takes are unused text: they are noted, so that the account shows what
            # a path leaves behind.
            found |= {f"{done}[{index}]": item for index, item in enumerate(value) if index != step}
            done += f"[{step}]"
        else:
            if type(value) is not dict or step not in value:
                break
            if done:
                found |= {f"{done}.{key}": item for key, item in value.items() if key != step}
            done += f".{step}" if done else str(step)
        value = value[step]
    return found
