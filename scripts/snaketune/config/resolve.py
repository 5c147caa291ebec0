"""Resolves runs from layers, each value with its origin: defaults < preset < file < run < command line."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from snaketune.config.grid import expand_grids
from snaketune.config.known_keys import all_keys, section_of, suggestion
from snaketune.config.notes import notes_for
from snaketune.config.run_references import link_runs
from snaketune.config.schema import FileConfig, LinkedConfig, RunConfig, RunEntry
from snaketune.config.strict_yaml import load_yaml
from snaketune.core.errors import ConfigError
from snaketune.workflow.id_words import check_distinct

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEFAULT_RUN = "default"
COMMAND_LINE = "--config"
LARGEST_NUMBER = 1 << 63
# Mappings that count as one value: a later layer replaces them entirely.
LEAF_MAPPINGS = {
    "data.columns",
    "data.roles",
    "evaluate.columns",
    "adapter.rank_pattern",
    "adapter.alpha_pattern",
    "plan.other_costs_usd",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """Values from one place; ``name`` is what errors and the report call it."""

    name: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ResolvedRun:
    """One run after resolution: checked values and, for every flat key, where its value comes from.

    ``grid`` is the entry of the configuration whose combination it is, if it is one.
    """

    name: str
    config: LinkedConfig
    origins: dict[str, str]
    notes: tuple[str, ...] = ()
    grid: str = ""

    def flat(self) -> dict[str, dict[str, Any]]:
        """Return ``{dotted key: {value, origin}}`` over all keys."""
        values = flatten(self.config.model_dump(mode="json"))
        return {key: {"value": value, "origin": self.origins.get(key, "default")} for key, value in values.items()}


def resolve_runs(file: Layer, command_line: dict[str, Any], presets: str | Path) -> list[ResolvedRun]:
    """Return the runs that the configuration asks for, sorted by name.

    Args:
        file: the parsed configuration file and its name.
        command_line: the values of ``--config``, strings that the schema coerces.
        presets: folder of the preset files.

    Raises:
        ConfigError: naming the place, the value and the fix.
    """
    override = Layer(COMMAND_LINE, _nulls(command_line))
    for layer in (file, override):
        check_keys(layer, FileConfig, layer.values)
        for name in _runs_of(layer):
            check_run_name(name, layer.name)
    preset_of = cache(partial(load_preset, folder=Path(presets)))
    whole = _first_set("preset", override.values, file.values)
    offered = _runs_of(preset_of(str(whole))) if whole else {}
    runs = {**_runs_of(file), **_runs_of(override)}
    # Runs without keys of their own, such as that of the configuration as it comes, make room for those of a preset.
    if offered:
        runs = {name: {} for name in offered} | {name: values for name, values in runs.items() if values}
    runs = runs or {DEFAULT_RUN: {}}
    expanded, grids = expand_grids(runs, file.name)
    check_distinct(expanded, file.name)
    for name, entry in grids.items():
        check_keys(file, RunEntry, expanded[name], f"runs.{entry}.grid: ")
    resolved = [_resolve_run(name, values, file, override, preset_of) for name, values in sorted(expanded.items())]
    return link_runs([replace(run, grid=grids.get(run.name, "")) for run in resolved])


def _resolve_run(
    name: str, values: dict[str, Any], file: Layer, override: Layer, preset_of: Callable[[str], Layer]
) -> ResolvedRun:
    preset = _first_set("preset", override.values, values, file.values)
    layers = _preset_layers(preset_of(str(preset)), name) if preset else []
    layers += [file, Layer(f"runs.{name} in {file.name}", values), override]
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        # A section that is null in a layer leaves the values below it untouched.
        own = {key: value for key, value in layer.values.items() if key not in ("preset", "runs") and value is not None}
        for key in flatten(own):
            # Recorded while merging: errors and the report name the layer, which the merged value no longer shows.
            origins[key] = layer.name
        merged = merge(merged, own)
    _check_writable(merged, origins)
    config = _validate(merged, origins, file.name)
    return ResolvedRun(name, config, origins, notes_for(preset, origins, config))


def _preset_layers(preset: Layer, run: str) -> list[Layer]:
    """Return the layers of a preset, which may have runs of its own: one for all of them, and that of ``run``.

    Raises:
        ConfigError: if it has runs and ``run`` is none of them.
    """
    offered = _runs_of(preset)
    if offered and run not in offered:
        raise ConfigError(
            f"preset: {preset.name.removeprefix('preset ')} has the runs {', '.join(sorted(offered))} and no run {run}:"
            " use it in a configuration without runs, or name one of these under runs."
        )
    return [preset, Layer(f"runs.{run} in {preset.name}", offered[run])] if offered else [preset]


def load_preset(name: str, folder: Path) -> Layer:
    """Return the preset ``name`` as a layer.

    Raises:
        ConfigError: if there is no such preset; the existing ones are named.
    """
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"preset: there is no preset {name!r}: use one of {', '.join(known)} or remove the line.")
    layer = Layer(f"preset {name}", load_yaml(folder / f"{name}.yaml", f"config/presets/{name}.yaml"))
    check_keys(layer, FileConfig if "runs" in layer.values else RunConfig, layer.values)
    return layer


def merge(below: dict[str, Any], above: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return ``below`` overlaid with ``above``: mappings are merged key by key, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        full = f"{path}{key}"
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value, f"{full}.") if both and full not in LEAF_MAPPINGS else value
    return merged


def flatten(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return the values by dotted key; lists and leaf mappings stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        full = f"{path}{key}"
        if isinstance(value, dict) and full not in LEAF_MAPPINGS:
            flat.update(flatten(value, f"{full}."))
        else:
            flat[full] = value
    return flat


def check_run_name(name: str, place: str) -> None:
    """Refuse run names that are not plain folder names.

    Raises:
        ConfigError: for anything but letters, digits, ``.``, ``_`` and ``-``.
    """
    if not RUN_NAME.fullmatch(name) or ".." in name or name == "latest":
        raise ConfigError(
            f"{place}: runs has the name {name!r}: use up to 64 letters, digits, '.', '_' or '-', starting with a"
            " letter or digit, for example lora-r16."
        )


def check_keys(layer: Layer, model: type[BaseModel], values: dict[str, Any], path: str = "") -> None:
    """Refuse keys that ``model`` does not have, naming the right one.

    Raises:
        ConfigError: naming the place, the key and the nearest or equivalent key.
    """
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None:
            form = " Write keys of a section in braces: --config 'train={seed: 1}'." * (layer.name == COMMAND_LINE)
            raise ConfigError(f"{layer.name}: {path}{key} is not a key here. {suggestion(key, model, path)}{form}")
        section = section_of(field.annotation)
        if section is None or value is None:
            continue
        if not isinstance(value, dict):
            on_command_line = layer.name == COMMAND_LINE
            form = f"'{key}={{key: value}}'" if on_command_line else f"`{key}:` with indented keys below"
            raise ConfigError(
                f"{layer.name}: {path}{key} is {value!r} but holds keys: write it as {form}, for example"
                f" {next(iter(section.model_fields))}."
            )
        check_keys(layer, section, value, f"{path}{key}.")
    if path == "" and model is FileConfig:
        for name, run in _runs_of(layer).items():
            check_keys(layer, RunEntry, run, f"runs.{name}.")


def _runs_of(layer: Layer) -> dict[str, dict[str, Any]]:
    runs = layer.values.get("runs") or {}
    if not isinstance(runs, dict):
        raise ConfigError(f"{layer.name}: runs is {runs!r}: write it as run names with indented keys below.")
    for name, values in runs.items():
        if values is not None and not isinstance(values, dict):
            raise ConfigError(f"{layer.name}: runs.{name} is {values!r}: give it keys, or nothing for the defaults.")
    # YAML reads a run called 2024 as a number.
    return {str(name): values or {} for name, values in runs.items()}


def _first_set(key: str, *mappings: dict[str, Any]) -> Any:
    return next((mapping[key] for mapping in mappings if key in mapping), None)


def _nulls(value: Any) -> Any:
    """Turn the string ``null`` from the command line, where every scalar is a string, into None."""
    if isinstance(value, dict):
        return {key: _nulls(item) for key, item in value.items()}
    # YAML's spellings of null; every other scalar is converted by the schema.
    return None if value in ("null", "~") else value


def _check_writable(merged: dict[str, Any], origins: dict[str, str]) -> None:
    """Refuse values that JSON cannot represent: the configuration is written into every spec."""
    for key, value in flatten(merged).items():
        problem = ""
        for leaf in _leaves(value):
            # orjson writes integers of at most 64 bits.
            if isinstance(leaf, int) and abs(leaf) >= LARGEST_NUMBER:
                problem = f"a number of {len(str(leaf))} digits: write a smaller one"
            if isinstance(leaf, str) and not leaf.isascii() and any("\ud800" <= mark <= "\udfff" for mark in leaf):
                problem = "a lone surrogate, which is not a character: remove it"
        if problem:
            raise ConfigError(f"{origins[key]}: {key} holds {problem}.")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _validate(merged: dict[str, Any], origins: dict[str, str], place: str) -> LinkedConfig:
    try:
        return LinkedConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_sentence(error.errors(), origins, place)) from None


def _sentence(problems: list[Any], origins: dict[str, str], place: str) -> str:
    known = set(all_keys())
    key = _key_of(problems[0], known)
    if problems[0]["type"] == "missing":
        key = {"data": "data.sources", "model": "model.name_or_path"}.get(key, key)
        example = {"data.sources": "[my-data.jsonl]", "model.name_or_path": "tiny"}[key]
        section, _, leaf = key.partition(".")
        return f"{place}: {key} is missing: add `{section}: {{{leaf}: {example}}}` or a preset."
    reasons = dict.fromkeys(problem["msg"] for problem in problems if _key_of(problem, known) == key)
    reason = " or ".join(text[0].lower() + text[1:] for text in reasons)
    return f"{origins.get(key, place)}: {key} is {problems[0]['input']!r}: {reason}; config/README.md lists its values."


def _key_of(problem: Any, known: set[str]) -> str:
    parts = [str(part) for part in problem["loc"]]
    # pydantic's location also has union members and list indices: the longest known key is meant.
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((prefix for prefix in prefixes if prefix in known), prefixes[0])
