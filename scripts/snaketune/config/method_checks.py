"""Settings that are incompatible with ``train.method``, refused before anything is computed."""

import re
from pathlib import Path
from typing import Any

from snaketune.config.resolve import ResolvedRun
from snaketune.config.run_references import referenced
from snaketune.config.schema import LinkedConfig
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
    _check_start(run)
    _check_judge(run)
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
    if method == "reward":
        _check_reward_model(run, place)


def _check_reward_model(run: ResolvedRun, place: str) -> None:
    config = run.config
    wrong: tuple[tuple[str, Any, Any, str], ...] = (
        ("model.quantization", config.model.quantization, "none", "whose head would be quantised, too"),
        ("train.fp8", config.train.fp8, False, "whose head is not in float8"),
        ("evaluate.tasks", config.evaluate.tasks, [], "which generates no answers"),
        ("evaluate.files", config.evaluate.files, [], "which generates no answers"),
        ("merge.adapters", config.merge.adapters, [], "whose heads cannot be added"),
    )
    _refuse_unless(place, wrong)


def _refuse_unless(place: str, wrong: tuple[tuple[str, Any, Any, str], ...]) -> None:
    """Refuse a key of ``wrong``, (name, value, value needed, why), with another value than the one needed."""
    for key, value, needed, why in wrong:
        if value != needed:
            shown, good = (str(each).lower() if isinstance(each, bool) else each for each in (value, needed))
            raise ConfigError(f"{place}, {why}, and {key} is {shown}: set {key} to {good}.")


def _check_judge(run: ResolvedRun) -> None:
    """Refuse a judge that is no run, that reads other text than it was trained on, or that has nothing to judge."""
    config, judge = run.config, run.config.evaluate.reward_model
    if judge is None:
        return
    place = f"run {run.name}: evaluate.reward_model is {judge!r}"
    if not referenced(judge):
        raise ConfigError(f"{place}, which is not a run: write run:<name> of a run with train.method: reward.")
    if config.train.method == "reward":
        raise ConfigError(f"{place} and train.method is reward, which generates no answers: remove the key.")
    if config.judge_run:
        _check_template(place, run, config.judge_run)


def _check_template(place: str, run: ResolvedRun, judge: LinkedConfig) -> None:
    own, other = run.config.tokens.chat_template, judge.tokens.chat_template
    if own != other:
        raise ConfigError(
            f"{place}, whose tokens.chat_template is {_short(other)} where this run has {_short(own)}: a reward model"
            " scores text in the form that it was trained on; give both runs the same template."
        )


def _short(template: str | None) -> str:
    return "null" if template is None else repr(template[:40])


def _check_start(run: ResolvedRun) -> None:
    """Refuse to train a language model from a reward model, which gives no text, and the other way round."""
    method = run.config.train.method
    for key, start in (("model.name_or_path", run.config.base_run), ("adapter.init_from", run.config.start_run)):
        if start is None:
            continue
        gives_scores = start.train.method == "reward"
        if gives_scores and method != "reward":
            raise ConfigError(
                f"run {run.name}: {key} names a run whose train.method is reward, which gives scores and no text, and"
                f" train.method is {method}: start from a run that answers; train.grpo.rewards and"
                " evaluate.reward_model take reward models."
            )
        if not gives_scores and method == "reward" and key == "adapter.init_from":
            raise ConfigError(
                f"run {run.name}: adapter.init_from names a run whose train.method is {start.train.method}, whose"
                " adapter has no head for scores: set model.name_or_path to that run instead."
            )


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
        ("plan.autotune", config.plan.autotune, False, "whose step is divided by TRL"),
        ("tokens.assistant_only_loss", config.tokens.assistant_only_loss, True, "which learns from answers"),
    )
    _refuse_unless(place, wrong)
    if config.data.format == "text":
        raise ConfigError(f"{place} and data.format is text, which has no prompts: set data.format to auto.")
    answers = train.per_device_train_batch_size * train.gradient_accumulation_steps
    # A group whose answers are in two optimizer steps would be compared with the mean of a part of it.
    if answers % group.num_generations:
        raise ConfigError(
            f"{place} and an optimizer step takes {answers} answers (train.per_device_train_batch_size"
            f" {train.per_device_train_batch_size} x train.gradient_accumulation_steps"
            f" {train.gradient_accumulation_steps}), which is not a multiple of"
            f" train.grpo.num_generations {group.num_generations}: set"
            f" train.gradient_accumulation_steps to {group.num_generations}."
        )
    _check_rewards(place, group.rewards, group.reward_weights)
    for name, judge in config.reward_runs.items():
        _check_template(f"{place} and train.grpo.rewards names run:{name}", run, judge)


def _check_rewards(place: str, rewards: list[str], weights: list[float] | None) -> None:
    for name in rewards:
        if name in BUILT_IN_REWARDS or referenced(name):
            continue
        found = FUNCTION.fullmatch(name)
        if not found:
            raise ConfigError(
                f"{place} and train.grpo.rewards has {name!r}, which is not a reward: use"
                f" {', '.join(BUILT_IN_REWARDS)}, run:<name> or file.py:function."
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
