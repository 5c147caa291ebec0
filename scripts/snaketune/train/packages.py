"""Versions and availability of the packages that training needs; this module imports none of them."""

import importlib.metadata
import importlib.util
import sys

from snaketune.core.errors import ConfigError
from snaketune.settings.training_slices import TrainingSlice

NONE, EIGHT, FOUR = "none", "8bit", "4bit"
INSTALL = "pip install -r envs/extras/quantization.txt -c constraints.txt"
VERSIONED = ("torch", "transformers", "peft", "accelerate")
# Packages of optimizers that are not torch's own, and the extra that installs each.
OPTIMIZERS = {
    "adamw_8bit": "bitsandbytes",
    "paged_adamw_8bit": "bitsandbytes",
    "paged_adamw_32bit": "bitsandbytes",
    "adamw_torch_8bit": "torchao",
}
EXTRAS = {"bitsandbytes": "quantization", "torchao": "float8"}


def versions(cfg: TrainingSlice) -> dict[str, str]:
    """Return the versions of the packages that decide the result.

    Raises:
        ConfigError: if a package that the configuration needs is not installed.
    """
    quantization, train = cfg["model"].get("quantization", NONE), cfg.get("train", {})
    require_bitsandbytes(quantization)
    require_optimizer(train.get("optim", ""))
    wanted = {OPTIMIZERS.get(train.get("optim", "")), None if quantization == NONE else "bitsandbytes"}
    if train.get("use_liger_kernel", False) and importlib.util.find_spec("liger_kernel"):
        wanted.add("liger_kernel")
    if train.get("method") == "grpo":
        require_trl("grpo")
        wanted.add("trl")
    if train.get("fp8") and importlib.util.find_spec("torchao"):
        wanted.add("torchao")
    return versions_of((*VERSIONED, *sorted(filter(None, wanted))))


def spare_unused(cfg: TrainingSlice) -> None:
    """Keep PEFT and accelerate from importing unused packages: bitsandbytes, which compiles kernels, and boto3.

    This saves more than a second per job. Call it before they are imported, in jobs that do not use object storage.
    """
    is_used = cfg.get("model", cfg).get("quantization", NONE) != NONE
    is_used |= OPTIMIZERS.get(cfg.get("train", {}).get("optim", "")) == "bitsandbytes"
    for name in ("boto3",) if is_used else ("boto3", "bitsandbytes"):
        # None in sys.modules makes Python raise ModuleNotFoundError on import.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def versions_of(names: tuple[str, ...] = VERSIONED) -> dict[str, str]:
    """Return the versions of packages, without the name of the build, as in ``+cpu``."""
    return {name: importlib.metadata.version(name).split("+")[0] for name in names}


def require_bitsandbytes(setting: str) -> None:
    """Raise ConfigError if the setting needs bitsandbytes, which is not installed."""
    if setting != NONE and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"model.quantization: {setting} needs the package bitsandbytes, which is not installed: {INSTALL}, or set "
            "model.quantization to none and lower train.per_device_train_batch_size."
        )


def require_optimizer(optim: str) -> None:
    """Raise ConfigError if ``train.optim`` is of a package that is not installed."""
    package = OPTIMIZERS.get(optim)
    if package and importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"train.optim: {optim} needs the package {package}, which is not installed: run `pip install -r"
            f" envs/extras/{EXTRAS[package]}.txt -c constraints.txt`, or set it to adamw_torch_fused."
        )


def require_deepspeed(strategy: str) -> None:
    """Raise ConfigError if the strategy needs DeepSpeed, which is not installed."""
    if strategy.startswith("deepspeed") and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            f"train.strategy: {strategy} needs DeepSpeed, which is not installed: run `pip install -r"
            " envs/extras/deepspeed.txt -c constraints.txt`, or use fsdp, which also shards."
        )


def require_trl(method: str) -> None:
    """Raise ConfigError if the method needs TRL, which is not installed."""
    if method == "grpo" and importlib.util.find_spec("trl") is None:
        raise ConfigError(
            "train.method: grpo needs the package trl, which is not installed: run `pip install -r"
            " envs/extras/grpo.txt -c constraints.txt`, or use dpo, orpo or kto, which need no package."
        )
