"""Where a run's facts, logs and times lie while it is not finished, and after it failed."""

from pathlib import Path
from typing import Any

from snaketune.core.canonical import canonical_text
from snaketune.workflow.job_table import Blueprint
from snaketune.workflow.stages import STAGES

RUN_STAGES = (
    "plan_run",
    "train_model",
    "merge_adapter",
    "evaluate_model",
    "describe_run",
    "render_report",
    "accept_merge",
)
OF_MERGING = ("merge_adapter", "accept_merge")
OUTPUTS = {
    "rightsize": "rightsize.json",
    "plan_run": "plan.json",
    "train_model": "adapter.manifest.json",
    "merge_adapter": "merge.json",
    "evaluate_model": "evaluation.json",
    "describe_run": "run.json",
    "render_report": "report.html",
    "accept_merge": "merged.manifest.json",
}
TIMED = ("train_model", "merge_adapter", "evaluate_model")


def files_of(blueprint: Blueprint, run: str) -> list[str]:
    """Return what a run ends in."""
    return [path for path in blueprint.run_files() if path.startswith(blueprint.run_path(run, ""))]


def history_settings(blueprint: Blueprint, run: str, lock: Path) -> str:
    """Return where a run's history is found, as JSON: operational, because it decides no result.

    Args:
        blueprint: the configured runs.
        run: the name of the run.
        lock: a file that is written when the workflow begins.
    """
    upstream, name = blueprint.upstream(blueprint.run_ids[run], run), f"{run}-{blueprint.run_ids[run]}"
    timed = [(stage, id, id) for stage, id in upstream.items() if stage not in RUN_STAGES]
    timed += [(stage, blueprint.run_ids[run], name) for stage in _stages_of(blueprint, run) if stage in TIMED]
    stages = [
        {"stage": stage, "id": id, "benchmark": f"benchmarks/{stage}/{file}.tsv"} for stage, id, file in _ordered(timed)
    ]
    return canonical_text({"results": blueprint.results, "lock": str(lock), "stages": stages})


def attempts_spec(blueprint: Blueprint, work: str, command: str) -> str:
    """Return the spec of the pages of unfinished runs: for every run where its stages' results and logs are.

    Args:
        blueprint: the configured runs.
        work: the folder of resumable state.
        command: what to type to go on.
    """
    runs = [_attempt(blueprint, run) for run in blueprint.runs]
    return blueprint.spec("report", {"work": work, "command": command, "runs": runs})


def _attempt(blueprint: Blueprint, run: str) -> dict[str, Any]:
    id = blueprint.run_ids[run]
    upstream = blueprint.upstream(id, run)
    shared = [(stage, own, own) for stage, own in upstream.items() if stage not in RUN_STAGES]
    stages = [
        {
            "stage": stage,
            "output": blueprint.path(stage, own, OUTPUTS.get(stage, "manifest.json")),
            "log": f"logs/{stage}/{file}.log",
        }
        for stage, own, file in _ordered(shared)
    ]
    stages += [
        {
            "stage": stage,
            "output": blueprint.run_path(run, OUTPUTS[stage]),
            "log": f"logs/{stage}/{run}-{id}.log",
        }
        for stage in _stages_of(blueprint, run)
    ]
    return {
        "run": run,
        "id": id,
        "folder": blueprint.run_path(run, "").rstrip("/"),
        "files": files_of(blueprint, run),
        "stages": stages,
        "training": blueprint.run_spec("train_model", run),
        "rightsize": blueprint.path("rightsize", upstream["rightsize"], "rightsize.json"),
        "rows": blueprint.path("pack_rows", upstream["pack_rows"], "manifest.json"),
        "model": blueprint.path("prepare_model", upstream["prepare_model"], "manifest.json"),
        "start": blueprint.start_manifest(run),
    }


def _stages_of(blueprint: Blueprint, run: str) -> list[str]:
    return [stage for stage in RUN_STAGES if stage not in OF_MERGING or blueprint.merges(run)]


def _ordered(stages: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Return stages in the order in which the workflow does them."""
    order = list(STAGES)
    return sorted(stages, key=lambda stage: order.index(stage[0]))
