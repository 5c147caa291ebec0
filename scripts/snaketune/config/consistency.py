"""Combinations of settings that are invalid together, refused before anything is computed."""

import difflib
import re

from snaketune.config.method_checks import check_method
from snaketune.config.resolve import ResolvedRun
from snaketune.config.schema import LinkedConfig
from snaketune.core.errors import ConfigError
from snaketune.plan.devices.hardware import THIS_MACHINE, find_hardware, load_catalogue
from snaketune.workflow.stages import identity
from snaketune.workflow.write_checks import VARIABLE

# Metrics of training on held-out pairs and labelled answers, besides the loss.
PAIR_METRICS = ("preference_accuracy", "reward_accuracy", "reward_margin")
METRICS_OF_METHOD = {"dpo": PAIR_METRICS, "orpo": PAIR_METRICS, "kto": ("reward_margin",), "reward": PAIR_METRICS[1:]}
TEMPLATE_MARK = re.compile(r"\{[{%]")
"""Marks a string as a chat template rather than a path."""
# Keys that decide an adapter's shape and scale: runs that share an adapter must agree on them.
SHAPE = (
    "type",
    "r",
    "lora_alpha",
    "target_modules",
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
)


def check_run(run: ResolvedRun) -> None:
    """Refuse combinations of settings that are invalid together.

    Raises:
        ConfigError: naming the run, the two keys and what to change.
    """
    config = run.config
    _check_variables(run)
    _check_plan(run)
    _check_nodes(run)
    _check_strategy(run)
    _check_optimizer(run)
    _check_best(run)
    check_method(run)
    if config.train.fp8 and config.model.quantization != "none":
        raise ConfigError(
            f"run {run.name}: train.fp8 is {str(config.train.fp8).lower()} and model.quantization is"
            f" {config.model.quantization}: float8 applies to layers that are not quantised; set one of the two to its "
            "default."
        )
    if config.adapter.type == "none":
        _check_full(run)
    elif config.start_run:
        _check_start(run, config.start_run)


def _check_best(run: ResolvedRun) -> None:
    """Refuse best-checkpoint selection or early stopping on evaluations that never run or lack the metric."""
    train, adapter = run.config.train, run.config.adapter
    if train.load_best_model_at_end:
        place = f"run {run.name}: train.load_best_model_at_end is true"
    elif train.early_stopping_patience is not None:
        place = f"run {run.name}: train.early_stopping_patience is {train.early_stopping_patience}"
    else:
        return
    if train.eval_steps == 0:
        raise ConfigError(
            f"{place} and train.eval_steps is 0, so no evaluation ever runs: set train.eval_steps, for example to 50."
        )
    known = ("loss", *METRICS_OF_METHOD.get(train.method, ()))
    if train.metric_for_best_model.removeprefix("eval_") not in known:
        raise ConfigError(
            f"{place} and train.metric_for_best_model is {train.metric_for_best_model!r}, which train.method: "
            f"{train.method} does not measure during training: use {' or '.join(known)}."
        )
    if train.load_best_model_at_end and adapter.type == "none" and train.strategy.startswith(("fsdp", "deepspeed")):
        raise ConfigError(
            f"{place} and train.strategy is {train.strategy} with every weight trained, whose checkpoints are sharded "
            "over several processes: set load_best_model_at_end to false, or train an adapter."
        )


def _check_variables(run: ResolvedRun) -> None:
    """Refuse shell variables in values where they are not expanded."""
    config = run.config
    paths = {
        "model.name_or_path": config.model.name_or_path,
        "tokens.chat_template": config.tokens.chat_template,
        "merge.gguf_converter": config.merge.gguf_converter,
    }
    for key, path in paths.items():
        if path and not TEMPLATE_MARK.search(path) and (variable := VARIABLE.search(path)):
            raise ConfigError(
                f"run {run.name}: {key} is {path!r}: {variable[0]} is not expanded here, because the value is part of "
                "the run's identity: write the path in full, or start it with ~ for your home folder."
            )


def _check_plan(run: ResolvedRun) -> None:
    gpu = run.config.plan.gpu
    if gpu == THIS_MACHINE or find_hardware(gpu):
        return
    known = [device.id for device in load_catalogue()]
    near = difflib.get_close_matches(gpu.lower(), known, n=1, cutoff=0.4)
    raise ConfigError(
        f"run {run.name}: plan.gpu is {gpu!r}, which config/hardware.yaml does not have:"
        f" {f'did you mean {near[0]}, ' if near else ''}use {THIS_MACHINE}, one of {', '.join(known)}, or add it there."
    )


def _check_nodes(run: ResolvedRun) -> None:
    gpus, nodes = run.config.plan.num_gpus, run.config.plan.num_nodes
    if gpus % nodes:
        raise ConfigError(
            f"run {run.name}: plan.num_gpus is {gpus} and plan.num_nodes is {nodes}, but all nodes have the same"
            f" number of GPUs: set num_gpus to {nodes * max(1, gpus // nodes)}, or num_nodes to 1."
        )


def _check_strategy(run: ResolvedRun) -> None:
    config, strategy = run.config, run.config.train.strategy
    place = f"run {run.name}: train.strategy is {strategy}"
    _check_offload(run)
    if (method := config.train.method) != "sft" and (strategy != "single" or config.plan.num_gpus > 1):
        raise ConfigError(
            f"run {run.name}: train.method is {method}, which supports one GPU only, train.strategy is {strategy} and"
            f" plan.num_gpus is {config.plan.num_gpus}: set train.strategy to single and plan.num_gpus to 1."
        )
    if strategy == "single":
        if config.plan.num_gpus > 1:
            raise ConfigError(
                f"{place} and plan.num_gpus is {config.plan.num_gpus}: set the strategy to ddp or fsdp, or"
                " plan.num_gpus to 1."
            )
        return
    if strategy != "ddp" and config.train.activation_offloading:
        raise ConfigError(
            f"{place} and train.activation_offloading is true, which is not supported with sharded weights: set "
            "train.activation_offloading to false, or train.strategy to ddp."
        )
    if strategy not in ("ddp", "deepspeed_zero2") and config.model.quantization != "none":
        raise ConfigError(
            f"{place} and model.quantization is {config.model.quantization}, but quantised weights cannot be sharded: "
            "set model.quantization to none, or train.strategy to ddp."
        )


def _check_optimizer(run: ResolvedRun) -> None:
    train = run.config.train
    shares = train.strategy == "fsdp" or train.strategy.startswith("deepspeed")
    if shares and ("8bit" in train.optim or "paged" in train.optim):
        raise ConfigError(
            f"run {run.name}: train.optim is {train.optim} and train.strategy is {train.strategy}, which shards the "
            "optimizer state itself: set train.optim to adamw_torch_fused."
        )
    if not train.optimizer_in_backward:
        return
    place = f"run {run.name}: train.optimizer_in_backward is true"
    for key, value, wanted, why in (
        (
            "gradient_accumulation_steps",
            train.gradient_accumulation_steps,
            1,
            "every backward pass is an optimizer step",
        ),
        # Each of these needs all gradients at once, and here each parameter's gradient is applied and freed as soon as
        # it is known.
        ("max_grad_norm", f"{train.max_grad_norm:g}", "0", "the norm over all gradients is only known after the step"),
        ("fp16", train.fp16, False, "scaled gradients have to be checked before the step"),
        ("strategy", train.strategy, "single", "gradients of several GPUs have to be averaged before the step"),
    ):
        if value != wanted:
            shown, good = (str(each).lower() if isinstance(each, bool) else each for each in (value, wanted))
            raise ConfigError(
                f"{place} and train.{key} is {shown}, but {why}: set train.{key} to {good}, or"
                " train.optimizer_in_backward to false."
            )


def _check_offload(run: ResolvedRun) -> None:
    strategy, offload = run.config.train.strategy, run.config.train.offload
    place = f"run {run.name}: train.offload is {offload} and train.strategy is {strategy}"
    if offload != "none" and not strategy.startswith("deepspeed"):
        raise ConfigError(
            f"{place}, which keeps everything on the GPU: set train.offload to none, or train.strategy to"
            " deepspeed_zero2 or deepspeed_zero3."
        )
    if offload == "nvme" and strategy != "deepspeed_zero3":
        raise ConfigError(
            f"{place}, which offloads to RAM only: set train.offload to cpu, or the strategy to deepspeed_zero3."
        )


def _check_full(run: ResolvedRun) -> None:
    config = run.config
    if config.model.quantization != "none":
        raise ConfigError(
            f"run {run.name}: model.quantization is {config.model.quantization} and adapter.type is none, but "
            "quantised weights cannot be trained directly: set adapter.type to lora, or model.quantization to none."
        )
    if config.adapter.init_from:
        name = config.adapter.init_from
        raise ConfigError(
            f"run {run.name}: adapter.init_from is {name} and adapter.type is none, which has no adapter: to continue "
            f"from another run's full model set model.name_or_path to {name} and remove adapter.init_from."
        )
    if config.model.dtype == "float16":
        raise ConfigError(
            f"run {run.name}: model.dtype is float16 and adapter.type is none: optimizer steps underflow or overflow "
            "in float16 weights; set model.dtype to auto, which keeps float32."
        )


def _check_start(run: ResolvedRun, start: LinkedConfig) -> None:
    place = f"run {run.name}: adapter.init_from is {run.config.adapter.init_from}"
    if start.adapter.type == "none":
        raise ConfigError(
            f"{place}, which trains every weight and has no adapter: set model.name_or_path to"
            f" {run.config.adapter.init_from} instead."
        )
    # Identities, not paths, are compared: one model may be configured in two ways.
    if identity(run.config, "prepare_model") != identity(start, "prepare_model"):
        raise ConfigError(
            f"{place}, whose adapter belongs to another base model ({start.model.name_or_path}): give both runs the"
            " same model section, or set model.name_or_path to the run to start from its merged model."
        )
    for name in SHAPE:
        own, other = getattr(run.config.adapter, name), getattr(start.adapter, name)
        if own != other:
            raise ConfigError(
                f"{place}, whose adapter.{name} is {other!r} where this run has {own!r}: an adapter keeps its shape "
                "and scale; give both runs the same value."
            )
