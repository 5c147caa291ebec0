"""Grids: one entry under ``runs`` that expands to a run for every combination of some values."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

from snaketune.core.canonical import canonical_text, digest_of
from snaketune.core.errors import ConfigError

MOST_RUNS = 64
LONGEST_RUN_NAME = 64
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


def expand_grids(runs: Mapping[str, dict[str, Any]], place: str) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the runs with every grid replaced by its combinations, and the grid that each such run comes from.

    ``sweep`` with ``{train.learning_rate: [1e-4, 2e-4], adapter.r: [8, 32]}`` becomes four runs that are named after
    their values, ``sweep-learning_rate-0.0001-r-8`` the first.

    Args:
        runs: the keys of each run by name, ``grid`` among them where there is one.
        place: where they are written, for errors.

    Raises:
        ConfigError: if a grid cannot be read, has too many combinations, or gives a run a name that is taken.
    """
    found: dict[str, dict[str, Any]] = {}
    grids: dict[str, str] = {}
    for name, values in runs.items():
        own = {key: value for key, value in values.items() if key != "grid"}
        grid = values.get("grid")
        made = {name: own} if grid is None else _combinations(name, own, grid, f"{place}: runs.{name}.grid")
        if taken := sorted(set(made) & set(found)):
            raise ConfigError(f"{place}: runs.{name} makes a run named {taken[0]}, which already exists: rename one.")
        found.update(made)
        grids |= {} if grid is None else dict.fromkeys(made, name)
    return found, grids


def _combinations(name: str, own: dict[str, Any], grid: Any, place: str) -> dict[str, dict[str, Any]]:
    lists = _checked(own, grid, place)
    count = 1
    for values in lists.values():
        count *= len(values)
    if count > MOST_RUNS:
        sizes = " x ".join(str(len(values)) for values in lists.values())
        raise ConfigError(
            f"{place} has {count:,} combinations ({sizes}), more than {MOST_RUNS}: remove values, or split it into two "
            "grids."
        )
    labels = _labels(list(lists))
    made = {}
    for combination in itertools.product(*lists.values()):
        chosen = dict(zip(lists, combination, strict=True))
        made[_name(name, {labels[key]: value for key, value in chosen.items()})] = _with(own, chosen)
    return made


def _checked(own: dict[str, Any], grid: Any, place: str) -> dict[str, list[Any]]:
    example = "write dotted keys with lists of values, as in {train.learning_rate: [1e-4, 2e-4]}"
    if not isinstance(grid, dict) or not grid:
        raise ConfigError(f"{place} is {grid!r}: {example}.")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{place}.{key} is {values!r}, but must be a list of one or more values: {example}.")
        texts = [canonical_text(_plain(value)) for value in values]
        if twice := next((text for text in texts if texts.count(text) > 1), None):
            raise ConfigError(f"{place}.{key} has {twice} twice: remove one.")
        if str(key).split(".")[0] in ("runs", "grid", "preset"):
            raise ConfigError(f"{place}: {key} is not a key of a run's configuration: {example}.")
        if _has(own, str(key).split(".")):
            raise ConfigError(f"{place}: {key} is in the grid and in the run itself: remove it from one of them.")
    return {str(key): grid[key] for key in sorted(grid, key=list(grid).index)}


def _has(values: Any, keys: list[str]) -> bool:
    if not keys:
        return True
    return isinstance(values, dict) and keys[0] in values and _has(values[keys[0]], keys[1:])


def _labels(keys: list[str]) -> dict[str, str]:
    """Return the last part of each key, or all of it where two end in the same."""
    ends = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def _plain(value: Any) -> Any:
    """Return a number for a string that reads as one: ``1e-4`` is a string in YAML 1.1, as is all of ``--config``."""
    try:
        return value if isinstance(value, bool | dict | list) or value is None else float(value)
    except ValueError:
        return value


def _name(run: str, values: dict[str, Any]) -> str:
    parts = [part for label, value in values.items() for part in (label, _word(value))]
    name = _UNFIT.sub("_", "-".join([run, *parts])).replace("..", ".")
    return name if len(name) <= LONGEST_RUN_NAME else f"{name[: LONGEST_RUN_NAME - 9]}-{digest_of(parts, size=4)}"


def _word(value: Any) -> str:
    plain = _plain(value)
    if isinstance(plain, float):
        return f"{plain:.12g}"
    return (
        canonical_text(plain) if isinstance(plain, dict | list) else str(value).lower() if value is None else str(value)
    )


def _with(own: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    values = own
    for key, value in chosen.items():
        values = _set(values, key.split("."), value)
    return values


def _set(values: Any, keys: list[str], value: Any) -> dict[str, Any]:
    below = dict(values or {})
    below[keys[0]] = value if len(keys) == 1 else _set(below.get(keys[0]), keys[1:], value)
    return below
