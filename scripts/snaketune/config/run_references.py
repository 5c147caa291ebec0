"""Runs that start from other runs: `run:<name>` in a configuration, followed to the run it names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from snaketune.common.errors import ConfigError
from snaketune.config.schema import RunConfig

if TYPE_CHECKING:
    from snaketune.config.resolve import ResolvedRun

PREFIX = "run:"
BASE, START = "model.name_or_path", "adapter.init_from"


def referenced(value: str | None) -> str | None:
    """Return the name of the run that ``run:<name>`` means, None for any other value."""
    return value[len(PREFIX) :].strip() if value and value.startswith(PREFIX) else None


def references(config: RunConfig) -> dict[str, str]:
    """Return the names of the runs that ``config`` starts from, by the key that says so."""
    found = {BASE: referenced(config.model.name_or_path), START: referenced(config.adapter.init_from)}
    return {key: name for key, name in found.items() if name is not None}


def link_runs(runs: list[ResolvedRun]) -> list[ResolvedRun]:
    """Return the runs, each with the configurations of those it starts from.

    A run that starts from another one speaks as that one does: where it sets no ``tokens.chat_template`` of its own, it
    has the other run's.

    Raises:
        ConfigError: if a run does not exist, merges nothing, or starts from itself.
    """
    links = _Links({run.name: run for run in runs})
    return [links.follow(run.name, ()) for run in runs]


class _Links:
    def __init__(self, runs: dict[str, ResolvedRun]):
        self._runs = runs
        self._linked: dict[str, ResolvedRun] = {}

    def follow(self, name: str, path: tuple[str, ...]) -> ResolvedRun:
        """Return the run ``name`` with its links; ``path`` are the runs on the way to it."""
        if name not in self._linked:
            self._linked[name] = self._link(self._runs[name], (*path, name))
        return self._linked[name]

    def _link(self, run: ResolvedRun, path: tuple[str, ...]) -> ResolvedRun:
        found = {key: self._earlier(run, key, name, path) for key, name in references(run.config).items()}
        base, start = found.get(BASE), found.get(START)
        first = base or start
        run = _with_template_of(run, first) if first else run
        links = {"base_run": base.config if base else None, "start_run": start.config if start else None}
        return replace(run, config=run.config.model_copy(update=links))

    def _earlier(self, run: ResolvedRun, key: str, name: str, path: tuple[str, ...]) -> ResolvedRun:
        place = f"{run.origins.get(key, 'default')}: {key} of the run {run.name} is {PREFIX}{name}"
        if name not in self._runs:
            known = ", ".join(sorted(set(self._runs) - {run.name})) or "no other run"
            raise ConfigError(f"{place}, but there is no run {name!r}: this configuration has {known}.")
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            raise ConfigError(f"{place}, which ends in a circle ({circle}): let one of them start from a model.")
        earlier = self.follow(name, path)
        if key == BASE and not earlier.config.merge.enabled:
            raise ConfigError(f"{place}, which merges nothing: set runs.{name}.merge.enabled to true.")
        return earlier


def _with_template_of(run: ResolvedRun, earlier: ResolvedRun) -> ResolvedRun:
    template = earlier.config.tokens.chat_template
    if run.config.tokens.chat_template is not None or template is None:
        return run
    tokens = run.config.tokens.model_copy(update={"chat_template": template})
    origins = {**run.origins, "tokens.chat_template": f"run {earlier.name}"}
    return replace(run, config=run.config.model_copy(update={"tokens": tokens}), origins=origins)
