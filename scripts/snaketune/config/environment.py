"""The environment that jobs inherit from the workflow."""

import os
import socket
import sys
from pathlib import Path

from snaketune.common import variables
from snaketune.common.door import PARENT_VARIABLE
from snaketune.common.errors import ConfigError
from snaketune.config.resolve import ResolvedRun
from snaketune.evaluate.packages import require_evaluation_packages
from snaketune.model.gguf_base import require_package
from snaketune.model.gguf_file import find_gguf
from snaketune.train.packages import require_bitsandbytes, require_deepspeed

PLUGINS = "PYTHONPATH"
DRIVER = Path("/proc/driver/nvidia/version")


def prepare_job_environment(in_job: bool = False) -> str | None:
    """Make jobs use the interpreter that runs Snakemake, few busy-waiting threads, and watch over this process.

    ``OMP_WAIT_POLICY=PASSIVE`` keeps idle OpenMP threads from burning the cores that other jobs need.

    Args:
        in_job: this is the Snakemake that runs a job of a cluster, and finds its plugins on the PYTHONPATH.

    Returns:
        A sentence on what other tools have left in the environment and jobs do not see, or None.
    """
    path = plugin_path() if in_job else None
    removed = variables.clean()
    if path is not None:
        restore_plugin_path(path)
        removed.remove(PLUGINS)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ[PARENT_VARIABLE] = f"{socket.gethostname()}:{os.getpid()}"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not removed:
        return None
    return f"{', '.join(removed)} of the shell are not passed on to jobs: the configuration alone decides the results."


def plugin_path() -> str | None:
    """Return where the shell says that Python finds more packages: a plugin of Snakemake may be there."""
    return os.environ.get(PLUGINS)


def restore_plugin_path(path: str | None) -> None:
    """Let the Snakemake in each job of a cluster find its plugins where this one does."""
    if path:
        os.environ[PLUGINS] = path


def machine_notes(runs: list[ResolvedRun]) -> list[str]:
    """Return sentences on what the runs ask of this machine that it does in another way."""
    quantised = [run.name for run in runs if run.config.model.quantization != "none"]
    if not quantised or DRIVER.exists():
        return []
    return [
        f"model.quantization of {', '.join(quantised)}: there is no NVIDIA GPU here, so that quantised weights compute"
        " on the CPU: they save memory there but no time, and none is exact."
    ]


def require_packages(runs: list[ResolvedRun]) -> None:
    """Refuse runs that need a package which jobs of this interpreter do not find.

    Training refuses them, too, but only after hours of preparing data.

    Raises:
        ConfigError: with the command that installs it and the setting that does without.
    """
    for run in runs:
        try:
            if gguf := find_gguf(Path(run.config.model.name_or_path).expanduser()):
                require_package(gguf)
            require_bitsandbytes(run.config.model.quantization)
            require_deepspeed(run.config.train.strategy)
            require_evaluation_packages(run.config.evaluate.metrics, run.config.evaluate.tasks)
        except ConfigError as error:
            raise ConfigError(f"run {run.name}: {error}") from None
