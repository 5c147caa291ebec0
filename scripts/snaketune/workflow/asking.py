"""Which models `snakemake ask` talks to, and how."""

from pathlib import Path
from typing import Any

from snaketune.ask.request import read_request
from snaketune.core.errors import ConfigError
from snaketune.workflow.job_table import JobTable


def ask_spec(job_table: JobTable, given: Any) -> str:
    """Return the spec of a conversation: the models of a finished run, and what is asked.

    Args:
        job_table: the configured runs.
        given: what ``--config ask=…`` says.

    Raises:
        ConfigError: if there is no such run, or it has not been trained.
    """
    request = read_request(given)
    name = request.run or next(iter(job_table.runs))
    if name not in job_table.runs:
        raise ConfigError(f"ask.run is {name!r}, which is not configured: use one of {', '.join(job_table.runs)}.")
    if job_table.runs[name].config.train.method == "reward":
        raise ConfigError(
            f"ask: run {name} trains a reward model (train.method: reward), which gives scores and no text: name"
            " another run, as in `--config 'ask={run: name}'`, or judge answers with it by evaluate.reward_model."
        )
    if not Path(job_table.run_path(name, "adapter.manifest.json")).is_file():
        raise ConfigError(f"ask: run {name} has not been trained as it is configured: run `snakemake train` first.")
    merged = Path(job_table.run_path(name, "merged"))
    if request.model == "merged" and not merged.is_dir():
        raise ConfigError(f"ask.model is merged, but run {name} has no merged model: use adapter.")
    config, upstream = job_table.runs[name].config, job_table.upstream(job_table.run_ids[name], name)
    tokens = job_table.path("tokenize_records", upstream["tokenize_records"], "manifest.json")
    cfg = {
        "base": job_table.path("prepare_model", upstream["prepare_model"], "model"),
        "adapter": job_table.run_path(name, "adapter"),
        "merged": str(merged) if merged.is_dir() and request.model != "adapter" else None,
        "tokens": str(Path(tokens).parent),
        "system": config.data.system_prompt,
        "request": given,
        "model": config.model_dump(mode="json")["model"],
        "train": {"cpu_threads": config.train.cpu_threads},
    }
    return job_table.spec("ask", cfg)
