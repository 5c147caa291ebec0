"""Checks of adapters that are merged together: refused before anything is computed if PEFT cannot combine them."""

from __future__ import annotations

from snaketune.config.resolve import ResolvedRun
from snaketune.config.run_references import merged_names
from snaketune.config.schema import LinkedConfig
from snaketune.config.schema_model import AdapterConfig
from snaketune.core.errors import ConfigError
from snaketune.workflow.stages import identity

# Methods that concatenate or decompose the updates; all others add the matrices themselves, which needs equal ranks.
OF_ANY_RANK = ("cat", "svd", "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd")


def check_merged_adapters(run: ResolvedRun) -> None:
    """Refuse adapters that cannot be merged together.

    Raises:
        ConfigError: naming the run, the adapter and what to change.
    """
    config, names = run.config, merged_names(run.config)
    if not names or not config.merge.enabled:
        return
    place = f"run {run.name}: merge.adapters"
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{place} names {twice} twice: name it once, with the sum of the weights.")
    if config.adapter.type == "none":
        raise ConfigError(
            f"{place} is set, but adapter.type is none, which has no adapter: set merge.adapters in another run."
        )
    for name in names:
        _check_base(place, name, config, config.merged_runs[name])
        _check_kind(place, name, config.merged_runs[name].adapter)
        if config.merged_runs[name].train.method == "reward":
            raise ConfigError(
                f"{place} names {name}, which is a reward model (train.method is reward): its adapter has a head for"
                " scores that no language model has; leave it out."
            )
    _check_ranks(place, config, names)


def _check_base(place: str, name: str, config: LinkedConfig, other: LinkedConfig) -> None:
    if identity(config, "prepare_model") != identity(other, "prepare_model"):
        raise ConfigError(
            f"{place} names {name}, whose adapter belongs to another base model ({other.model.name_or_path}, here"
            f" {config.model.name_or_path}): give both runs the same model section (a tiny model pre-trained on the "
            "data also needs the same data), or leave it out."
        )


def _check_kind(place: str, name: str, adapter: AdapterConfig) -> None:
    problems = {
        "trains every weight (adapter.type is none)": adapter.type == "none",
        "is DoRA (adapter.use_dora)": adapter.use_dora,
        "has fully trained layers (adapter.modules_to_save)": bool(adapter.modules_to_save),
        "trains token embeddings (adapter.trainable_token_indices)": bool(adapter.trainable_token_indices),
        "trains fused experts (adapter.target_parameters)": bool(adapter.target_parameters),
    }
    if problem := next((text for text, is_there in problems.items() if is_there), None):
        raise ConfigError(
            f"{place} names {name}, which {problem}: only plain LoRA adapters can be combined; leave it out."
        )


def _check_ranks(place: str, config: LinkedConfig, names: list[str]) -> None:
    if config.merge.method in OF_ANY_RANK:
        return
    ranks = {name: _ranks(config.merged_runs[name].adapter) for name in names}
    if other := next((name for name in names if ranks[name] != ranks[names[0]]), None):
        raise ConfigError(
            f"{place}: merge.method is {config.merge.method}, which needs equal ranks, and {other} has"
            f" {_told(ranks[other])} where {names[0]} has {_told(ranks[names[0]])}: set merge.method to cat or to one "
            "of the svd methods, or train both with the same ranks."
        )


def _ranks(adapter: AdapterConfig) -> tuple[int, dict[str, int]]:
    return adapter.r, dict(adapter.rank_pattern)


def _told(ranks: tuple[int, dict[str, int]]) -> str:
    return f"r {ranks[0]}" + (f" and rank_pattern {ranks[1]}" if ranks[1] else "")
