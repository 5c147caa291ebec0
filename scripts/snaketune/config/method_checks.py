"""Settings that are incompatible with ``train.method``, refused before anything is computed."""

import re
from pathlib import Path
from typing import Any

from snaketune.config.resolve import ResolvedRun
from snaketune.config.schema_train import DpoConfig, TrainConfig
from snaketune.core.errors import ConfigError
from snaketune.core.training_methods import PAIRED, PREFERENCE

BUILT_IN_REWARDS = ("exact_match", "numeric_match", "json_equal", "json_valid", "length")
FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")


def check_method(run: ResolvedRun) -> None:
    """Refuse settings that do not go together with the run's method.

    Raises:
        ConfigError: naming the run, the two keys and what to change.
    """
    if run.config.train.method in PREFERENCE:
        _check_preferences(run)
    elif run.config.train.method == "grpo":
        _check_grpo(run)


def _check_preferences(run: ResolvedRun) -> None:
    data, tokens, method = run.config.data, run.config.tokens, run.config.train.method
    place = f"run {run.name}: train.method is {method}"
    if method == "kto" and data.format == "text":
        raise ConfigError(
            f"{place} and data.format is text, which has no answers: set data.format to auto, or train.method to sft."
        )
    if method in PAIRED and data.format not in ("auto", "preference"):
        raise ConfigError(
            f"{place} and data.format is {data.format}, which has no chosen and rejected answers: set"
            " data.format to preference, or train.method to sft."
        )
    if tokens.on_too_long == "truncate":
        raise ConfigError(
            f"{place} and tokens.on_too_long is truncate: truncated answers cannot be compared; set it to drop or "
            "error."
        )
    if not tokens.assistant_only_loss:
        raise ConfigError(
            f"{place} and tokens.assistant_only_loss is false: only the answers are compared; set it to true."
        )
    if method == "dpo":
        _check_smoothing(place, run.config.train.dpo)


def _check_smoothing(place: str, loss: DpoConfig) -> None:
    if loss.label_smoothing and loss.loss_type != "sigmoid":
        raise ConfigError(
            f"{place} and train.dpo.label_smoothing is {loss.label_smoothing:g}, which {loss.loss_type} does not "
            "support: set it to 0, or train.dpo.loss_type to sigmoid."
        )


def _check_grpo(run: ResolvedRun) -> None:
    config, train, group = run.config, run.config.train, run.config.train.grpo
    place = f"run {run.name}: train.method is grpo"
    wrong: tuple[tuple[str, Any, Any, str], ...] = (
        ("adapter.type", config.adapter.type, "lora", "which trains an adapter"),
        ("model.quantization", config.model.quantization, "none", "whose base is not quantised"),
        ("train.eval_steps", train.eval_steps, 0, "which evaluates after training"),
        ("train.fp8", train.fp8, False, "whose layers are not in float8"),
        ("train.optimizer_in_backward", train.optimizer_in_backward, False, "which steps after the backward pass"),
        ("train.activation_offloading", train.activation_offloading, False, "which keeps activations on the device"),
        ("plan.probe", config.plan.probe, False, "whose time goes to generating, which the probe does not measure"),
        ("tokens.assistant_only_loss", config.tokens.assistant_only_loss, True, "which learns from answers"),
    )
    for key, value, needed, why in wrong:
        if value != needed:
            shown, good = (str(each).lower() if isinstance(each, bool) else each for each in (value, needed))
            raise ConfigError(f"{place}, {why}, and {key} is {shown}: set {key} to {good}.")
    if config.data.format == "text":
        raise ConfigError(f"{place} and data.format is text, which has no prompts: set data.format to auto.")
    answers = train.per_device_train_batch_size * train.gradient_accumulation_steps
    if answers % group.num_generations:
        raise ConfigError(
            f"{place} and an optimizer step takes {answers} answers (train.per_device_train_batch_size"
            f" {train.per_device_train_batch_size} x train.gradient_accumulation_steps"
            f" {train.gradient_accumulation_steps}), no multiple of train.grpo.num_generations {group.num_generations}:"
            f" set train.gradient_accumulation_steps to {group.num_generations}."
        )
    _check_rewards(place, group.rewards, group.reward_weights)


def _check_rewards(place: str, rewards: list[str], weights: list[float] | None) -> None:
    for name in rewards:
        if name in BUILT_IN_REWARDS:
            continue
        found = FUNCTION.fullmatch(name)
        if not found:
            raise ConfigError(
                f"{place} and train.grpo.rewards has {name!r}, which is no reward: use {', '.join(BUILT_IN_REWARDS)} or"
                " file.py:function."
            )
        if not Path(found["file"]).expanduser().is_file():
            raise ConfigError(f"{place} and train.grpo.rewards has {name!r}: there is no file {found['file']}.")
    if weights is not None and len(weights) != len(rewards):
        raise ConfigError(
            f"{place} and train.grpo.reward_weights has {len(weights)} numbers for {len(rewards)} rewards: give one for"
            " each."
        )


def reward_files(train: TrainConfig) -> list[str]:
    """Return the files of the user's own rewards that a training uses."""
    rewards = train.grpo.rewards if train.method == "grpo" else []
    return [found["file"] for name in rewards if (found := FUNCTION.fullmatch(name))]
