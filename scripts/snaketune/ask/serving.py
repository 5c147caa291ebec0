"""Serving a merged model with an installed OpenAI-compatible server: vLLM, otherwise `transformers serve`."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from snaketune.core.errors import ConfigError
from snaketune.model.configuration import CONFIG
from snaketune.model.reward_model import is_reward_model

EXTRA = "envs/extras/serve.txt"
# Packages that `transformers serve` needs besides transformers.
SERVER_PACKAGES = ("fastapi", "uvicorn", "openai")
RUNS, LATEST, MERGED_FOLDER = "runs", "latest", "merged"


def find_merged(results: Path, run: str | None) -> Path:
    """Return the folder of a run's merged model; the run may be omitted if only one has a merged model.

    Reward models do not count: servers of text cannot run them.

    Raises:
        ConfigError: if no merged model is found, or several runs have one.
    """
    models = sorted(path for path in results.glob(f"{RUNS}/*/{LATEST}/{MERGED_FOLDER}") if path.is_dir())
    found = {path.parents[1].name: path for path in models}
    scoring = {name for name, path in found.items() if (path / CONFIG).is_file() and is_reward_model(path)}
    if run in scoring:
        raise ConfigError(f"serve: the run {run} is a reward model, which gives scores and no text: name another run.")
    found = {name: path for name, path in found.items() if name not in scoring}
    if run is not None and run not in found:
        there = f"use one of {', '.join(found)}" if found else "run `snakemake train` first"
        raise ConfigError(f"serve: the run {run} has no merged model in {results}: {there}.")
    if not found:
        raise ConfigError(f"serve: no run in {results} has a merged model: run `snakemake train` first.")
    if run is None and len(found) > 1:
        raise ConfigError(f"serve: {', '.join(found)} have models: name one as in `make serve RUN={min(found)}`.")
    return found[run or next(iter(found))]


def server_command(
    model: Path,
    name: str,
    host: str,
    port: int,
    which: Callable[[str], str | None] = shutil.which,
    installed: Callable[[str], object] = find_spec,
) -> list[str]:
    """Return the command that serves the model in a folder.

    Args:
        model: the folder.
        name: the model's name for clients of vLLM; `transformers serve` uses the folder as its name.
        host: the address to listen on.
        port: the port to listen on.
        which: finds a program.
        installed: finds a package.

    Raises:
        ConfigError: if no server is installed.
    """
    if vllm := which("vllm"):
        return [vllm, "serve", str(model), "--served-model-name", name, "--host", host, "--port", str(port)]
    program, missing = which("transformers"), [package for package in SERVER_PACKAGES if not installed(package)]
    if program and not missing:
        return [program, "serve", str(model), "--host", host, "--port", str(port)]
    raise ConfigError(
        f"serve: neither vLLM nor the packages of `transformers serve` ({', '.join(missing)}) are installed: run"
        f" `pip install -r {EXTRA} -c constraints.txt`, or install vLLM."
    )
