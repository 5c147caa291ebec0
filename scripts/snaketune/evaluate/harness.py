"""Tasks of lm-evaluation-harness (the optional package lm_eval), from local task files and on a model in memory."""

from collections.abc import Sequence
from typing import Any

from snaketune.core.digests import file_digest
from snaketune.core.errors import ConfigError
from snaketune.evaluate.evaluation_packages import HARNESS, package

# Resamples for the standard error of measures that have no formula for it.
HARNESS_RESAMPLES = 1000


def run_tasks(model: Any, tokenizer: Any, entries: Sequence[dict[str, str]], batch_size: int) -> dict[str, Any]:
    """Return what the tasks in the files ``entries`` measure of ``model``, by task, with version and cases of each.

    Tasks of the harness itself are not known here: they would fetch their data.

    Args:
        model: a causal language model, with its adapter if it has one.
        tokenizer: its tokenizer.
        entries: ``{path, digest}`` of task files (YAML).
        batch_size: requests at once.

    Raises:
        ConfigError: if a file changed, or the harness refuses it.
    """
    for entry in entries:
        # The digest is part of the stage's identity: results of another file must not be recorded under it.
        if file_digest(entry["path"]) != entry["digest"]:
            raise ConfigError(f"evaluate.tasks: {entry['path']} changed during the run: run the same command again.")
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    paths = [entry["path"] for entry in entries]
    try:
        wrapped = package(f"{HARNESS}.models.huggingface").HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size
        )
        found = package(f"{HARNESS}.evaluator").simple_evaluate(
            wrapped,
            tasks=paths,
            # Default tasks would be indexed first (thousands of files), and fetch data from the hub.
            task_manager=package(f"{HARNESS}.tasks").TaskManager(include_defaults=False),
            bootstrap_iters=HARNESS_RESAMPLES,
            log_samples=False,
        )
    except Exception as error:  # task files hold code and settings of their own: whatever they raise is theirs
        first = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(
            f"evaluate.tasks: lm-evaluation-harness cannot run {', '.join(paths)} ({type(error).__name__}: {first}):"
            " check the task files; their data must be local."
        ) from error
    return {task: _facts(task, found) for task in sorted(found["results"])}


def _facts(task: str, found: dict[str, Any]) -> dict[str, Any]:
    numbers = {
        name: float(value)
        for name, value in found["results"][task].items()
        if isinstance(value, int | float) and "," in name
    }
    cases = found.get("n-samples", {}).get(task, {}).get("effective")
    return {"version": found["versions"].get(task), "n": cases, "measures": numbers}
