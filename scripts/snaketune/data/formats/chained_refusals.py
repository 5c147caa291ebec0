"""Chained refusals: if the suggested line would lead to another refusal, all lines are suggested at once."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from snaketune.core.errors import ConfigError, DataError, SnaketuneError
from snaketune.data.formats.configuration_lines import columns_line, ignore_line, roles_line, strip_line
from snaketune.data.records.reading_policy import ReadingPolicy

Error = TypeVar("Error", bound=SnaketuneError)
# Lines are only added: a source needs at most one per key, and a few more that name one column after another.
MOST_CURES = 5


def cured(error: Error, **cure: Any) -> Error:
    """Return an error with the settings of its line: ``ignore``, ``columns``, ``roles`` and ``strip`` of ``data``."""
    error.cure = cure
    return error


def with_cure(policy: ReadingPolicy, cure: Mapping[str, Any]) -> ReadingPolicy:
    """Return the policy with the suggested settings added."""
    changes: dict[str, Any] = {}
    for key, value in cure.items():
        own = getattr(policy, key)
        changes[key] = {**own, **value} if isinstance(own, dict) else list(dict.fromkeys([*own, *value]))
    return replace(policy, **changes)


def tell_all(policy: ReadingPolicy, decide: Callable[[ReadingPolicy], Any], error: Error) -> Error:
    """Return the error with every further line that its own line makes necessary.

    Args:
        policy: with which the error came.
        decide: decides with another policy, and raises the next error.
        error: the first one.
    """
    reached = policy
    last: SnaketuneError = error
    for _ in range(MOST_CURES):
        if not last.cure:
            return error
        reached = with_cure(reached, last.cure)
        try:
            decide(reached)
        except (ConfigError, DataError) as following:
            last = following
            continue
        return error if last is error else _joined(error, lines_of(reached, policy))
    return error


def lines_of(policy: ReadingPolicy, known: ReadingPolicy) -> str:
    """Return the configuration lines for the keys in which a policy differs from the known one."""
    lines = {"columns": columns_line, "ignore": ignore_line, "roles": roles_line, "strip": strip_line}
    return " and ".join(
        line(getattr(policy, key)) for key, line in lines.items() if getattr(policy, key) != getattr(known, key)
    )


def _joined(error: Error, lines: str) -> Error:
    return type(error)(f"{error} That alone would lead to further errors; all needed lines are {lines}.")
