"""Runs that start from other runs or merge their adapters: resolves the names to runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from snaketune.config.schema import RunConfig
from snaketune.core.errors import ConfigError

if TYPE_CHECKING:
    from snaketune.config.resolve import ResolvedRun

RUN_PREFIX = "run:"
BASE_KEY, START_KEY, MERGED_KEY = "model.name_or_path", "adapter.init_from", "merge.adapters"
REWARD, JUDGE = "train.grpo.rewards", "evaluate.reward_model"


def referenced(value: str | None) -> str | None:
    """Return the name of the run in ``run:<name>``, or None for any other value."""
    return value[len(RUN_PREFIX) :].strip() if value and value.startswith(RUN_PREFIX) else None


def references(config: RunConfig) -> dict[str, str]:
    """Return the names of the runs that ``config`` starts from, by the key that names them."""
    found = {BASE_KEY: referenced(config.model.name_or_path), START_KEY: referenced(config.adapter.init_from)}
    return {key: name for key, name in found.items() if name is not None}


def merged_names(config: RunConfig) -> list[str]:
    """Return the names of the runs whose adapters ``config`` merges together, in the order given."""
    return [adapter.run.removeprefix(RUN_PREFIX).strip() for adapter in config.merge.adapters]


def reward_names(config: RunConfig) -> list[str]:
    """Return the names of the runs whose reward models ``config`` trains by, in the order given."""
    rewards = config.train.grpo.rewards if config.train.method == "grpo" else []
    return [name for reward in rewards if (name := referenced(reward)) is not None]


def judge_name(config: RunConfig) -> str | None:
    """Return the name of the run whose reward model judges the answers of ``config``, None without one."""
    return referenced(config.evaluate.reward_model)


def needed_runs(
    runs: Mapping[str, ResolvedRun], config: RunConfig, run: str | None, merging: bool
) -> list[ResolvedRun]:
    """Return all runs that a base model or a run needs, directly or not, sorted by name.

    Args:
        runs: all runs by name.
        config: of the run, or of a run with the base model.
        run: name of the run, None for a base model.
        merging: whether the run's merged model is meant, or its training alone.
    """
    waiting = _needs(config, merging) if run else [pair for pair in _needs(config, False) if pair[1]]
    seen: set[tuple[str, bool]] = set()
    while waiting:
        found = waiting.pop()
        # A run and whether its merge is needed are one item: a run may be met first for its adapter and later for its
        # merged model, which needs more.
        if found not in seen and found[0] != run:
            seen.add(found)
            waiting += _needs(runs[found[0]].config, found[1])
    return [runs[name] for name in sorted({name for name, _ in seen})]


def _needs(config: RunConfig, merging: bool) -> list[tuple[str, bool]]:
    """Return the runs that a training or, with ``merging``, a merged model needs, and whether merged themselves."""
    found = [(name, key == BASE_KEY) for key, name in references(config).items()]
    found += [(name, True) for name in reward_names(config)]
    return found + [(name, False) for name in (merged_names(config) if merging else [])]


def link_runs(runs: list[ResolvedRun]) -> list[ResolvedRun]:
    """Return the runs, each with the configurations of those it starts from and of those whose adapters it merges.

    A run that starts from another one inherits its ``tokens.chat_template`` unless it sets its own.

    Raises:
        ConfigError: if a run does not exist, merges nothing, or starts from itself.
    """
    links = _Links({run.name: run for run in runs})
    return [links.judged(run.name) for run in runs]


class _Links:
    """Follows references: a run's training needs other runs, and its merge needs trainings, including its own."""

    def __init__(self, runs: dict[str, ResolvedRun]):
        self._runs = runs
        self._trained: dict[str, ResolvedRun] = {}
        self._merged: dict[str, ResolvedRun] = {}

    def training(self, name: str, path: tuple[str, ...]) -> ResolvedRun:
        """Return the run ``name`` with what its training starts from; ``path`` are the runs on the way to it."""
        # Each run is linked once. Without this, chains that share runs would be resolved once for every path through
        # them.
        if name not in self._trained:
            self._trained[name] = self._link(self._runs[name], (*path, name))
        return self._trained[name]

    def merging(self, name: str, path: tuple[str, ...]) -> ResolvedRun:
        """Return the run ``name`` with what it starts from and the runs whose adapters it merges."""
        if name not in self._merged:
            run = self.training(name, path)
            others = {other: self._earlier(run, MERGED_KEY, other, (*path, name)) for other in merged_names(run.config)}
            configs = {other: found.config for other, found in others.items()}
            self._merged[name] = replace(run, config=run.config.model_copy(update={"merged_runs": configs}))
        return self._merged[name]

    def judged(self, name: str) -> ResolvedRun:
        """Return the run ``name`` with everything that it needs, the reward model that judges its answers included.

        Nothing needs a run's evaluation, so that two runs may judge each other's models.
        """
        run = self.merging(name, ())
        judge = judge_name(run.config)
        if judge is None:
            return run
        found = self._scoring(run, JUDGE, judge, ())
        return replace(run, config=run.config.model_copy(update={"judge_run": found.config}))

    def _scoring(self, run: ResolvedRun, key: str, name: str, path: tuple[str, ...]) -> ResolvedRun:
        """Return the run whose merged reward model the setting ``key`` of ``run`` names."""
        found = self._earlier(run, key, name, path)
        if found.config.train.method != "reward":
            raise ConfigError(
                f"{run.origins.get(key, 'default')}: {key} of the run {run.name} names {name}, whose train.method is"
                f" {found.config.train.method}: name a run with train.method: reward."
            )
        return found

    def _link(self, run: ResolvedRun, path: tuple[str, ...]) -> ResolvedRun:
        found = {key: self._earlier(run, key, name, path) for key, name in references(run.config).items()}
        base, start = found.get(BASE_KEY), found.get(START_KEY)
        first = base or start
        run = _with_template_of(run, first) if first else run
        scoring = {other: self._scoring(run, REWARD, other, path).config for other in reward_names(run.config)}
        links = {
            "base_run": base.config if base else None,
            "start_run": start.config if start else None,
            "reward_runs": scoring,
        }
        return replace(run, config=run.config.model_copy(update=links))

    def _earlier(self, run: ResolvedRun, key: str, name: str, path: tuple[str, ...]) -> ResolvedRun:
        said = f"names {name}" if key in (MERGED_KEY, REWARD) else f"is {RUN_PREFIX}{name}"
        place = f"{run.origins.get(key, 'default')}: {key} of the run {run.name} {said}"
        if name not in self._runs:
            known = ", ".join(sorted(set(self._runs) - {run.name})) or "no other run"
            raise ConfigError(f"{place}, but there is no run {name!r}: this configuration has {known}.")
        # A run whose training is resolved may be used while its own merge is still being resolved.
        merges = key in (BASE_KEY, REWARD, JUDGE)
        if name in path and (merges or name not in self._trained):
            circle = " -> ".join((*path[path.index(name) :], name))
            raise ConfigError(f"{place}, which is circular ({circle}): let one of these runs start from a model.")
        earlier = self.merging(name, path) if merges else self.training(name, path)
        if merges and not earlier.config.merge.enabled:
            raise ConfigError(f"{place}, which has no merged model: set runs.{name}.merge.enabled to true.")
        return earlier


def _with_template_of(run: ResolvedRun, earlier: ResolvedRun) -> ResolvedRun:
    template = earlier.config.tokens.chat_template
    if run.config.tokens.chat_template is not None or template is None:
        return run
    tokens = run.config.tokens.model_copy(update={"chat_template": template})
    origins = {**run.origins, "tokens.chat_template": f"run {earlier.name}"}
    return replace(run, config=run.config.model_copy(update={"tokens": tokens}), origins=origins)
