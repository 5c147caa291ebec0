"""The environment that jobs inherit from the workflow."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from snaketune.config.resolve import ResolvedRun
from snaketune.config.schema import LinkedConfig
from snaketune.core import environment
from snaketune.core.cli import PARENT_VARIABLE
from snaketune.core.errors import ConfigError
from snaketune.evaluate.evaluation_packages import require_evaluation_packages
from snaketune.model.gguf.gguf_file import find_gguf, require_gguf
from snaketune.train.packages import (
    require_bitsandbytes,
    require_deepspeed,
    require_optimizer,
    require_trl,
    require_vllm,
)

PLUGINS = "PYTHONPATH"
DRIVER = Path("/proc/driver/nvidia/version")


def prepare_job_environment(in_job: bool = False) -> str | None:
    """Set the environment of jobs: the interpreter that runs Snakemake, passive OpenMP waiting, and the pid to watch.

    ``OMP_WAIT_POLICY=PASSIVE`` keeps idle OpenMP threads from occupying cores that other jobs need.

    Args:
        in_job: whether this Snakemake runs a single job of a cluster and finds its plugins on the PYTHONPATH.

    Returns:
        A sentence that names variables of other tools which are hidden from jobs, or None.
    """
    path = plugin_path() if in_job else None
    removed = environment.clean()
    if path is not None:
        restore_plugin_path(path)
        removed.remove(PLUGINS)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ[PARENT_VARIABLE] = f"{socket.gethostname()}:{os.getpid()}"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not removed:
        return None
    return f"{', '.join(removed)} of the shell are not passed to jobs: only the configuration decides the results."


def plugin_path() -> str | None:
    """Return the shell's PYTHONPATH: a plugin of Snakemake may be there."""
    return os.environ.get(PLUGINS)


def restore_plugin_path(path: str | None) -> None:
    """Let the Snakemake in each job of a cluster find its plugins where this one does."""
    if path:
        os.environ[PLUGINS] = path


def machine_notes(runs: list[ResolvedRun]) -> list[str]:
    """Return notes on settings that this machine handles differently."""
    quantised = [run.name for run in runs if run.config.model.quantization != "none"]
    if not quantised or DRIVER.exists():
        return []
    return [
        f"model.quantization of {', '.join(quantised)}: there is no NVIDIA GPU here, so quantised weights are computed "
        "on the CPU: this saves memory but no time, and loses precision."
    ]


def require_packages(run: str, config: LinkedConfig, stage: str) -> None:
    """Refuse, while jobs are planned, a job whose package is not installed for this interpreter.

    The job itself would refuse too, but only after hours of data preparation. Requirements of other stages do not
    count: a plan reads no weights and runs without the packages of training.

    Args:
        run: the name of the run, for the message; empty for a variant that several runs may share.
        config: its configuration.
        stage: the job's rule.

    Raises:
        ConfigError: with the command that installs it and the setting that avoids it.
    """
    try:
        for require in REQUIREMENTS[stage]:
            require(config)
    except ConfigError as error:
        raise ConfigError(f"run {run}: {error}" if run else str(error)) from None


def _gguf(config: LinkedConfig) -> None:
    if file := find_gguf(Path(config.model.name_or_path).expanduser()):
        require_gguf(file)


def _quantization(config: LinkedConfig) -> None:
    require_bitsandbytes(config.model.quantization)


def _training(config: LinkedConfig) -> None:
    require_optimizer(config.train.optim)
    require_deepspeed(config.train.strategy)
    require_trl(config.train.method)
    require_vllm(config.train.method == "grpo" and config.train.grpo.use_vllm)


def _evaluation(config: LinkedConfig) -> None:
    require_evaluation_packages(config.evaluate.metrics, config.evaluate.tasks)


REQUIREMENTS: dict[str, tuple[Callable[[LinkedConfig], None], ...]] = {
    "prepare_tokenizer": (_gguf,),
    "probe_run": (_quantization, _training),
    "ablate_run": (_quantization, _training),
    "train_model": (_quantization, _training),
    "evaluate_model": (_quantization, _evaluation),
}
