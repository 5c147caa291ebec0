"""Locations of an unfinished or failed run's facts, logs and times."""

from pathlib import Path
from typing import Any

from snaketune.core.canonical import canonical_text
from snaketune.workflow.job_table import JobTable
from snaketune.workflow.stage_table import STAGE_BY_NAME, TABLE

RUN_STAGES = tuple(
    stage.name for stage in TABLE if stage.scope == "run" and stage.is_wanted and not stage.has_job_per_result
)


def files_of(job_table: JobTable, run: str) -> list[str]:
    """Return the final files of a run."""
    return [path for path in job_table.run_files() if path.startswith(job_table.run_path(run, ""))]


def history_settings(job_table: JobTable, run: str, lock: Path) -> str:
    """Return the paths of a run's history, as JSON: operational, because they decide no result.

    Args:
        job_table: the configured runs.
        run: the name of the run.
        lock: a file that is written when the workflow starts.
    """
    upstream, name = job_table.upstream(job_table.run_ids[run], run), f"{run}-{job_table.run_ids[run]}"
    timed = [(stage, id, id) for stage, id in upstream.items() if stage not in RUN_STAGES]
    timed += [
        (stage, job_table.run_ids[run], name) for stage in _stages_of(job_table, run) if STAGE_BY_NAME[stage].is_timed
    ]
    stages = [
        {"stage": stage, "id": id, "benchmark": f"benchmarks/{stage}/{file}.tsv"} for stage, id, file in _ordered(timed)
    ]
    return canonical_text({"results": job_table.results, "lock": str(lock), "stages": stages})


def attempts_spec(job_table: JobTable, work: str, command: str) -> str:
    """Return the spec of the pages of unfinished runs: for every run, the paths of its stages' results and logs.

    Args:
        job_table: the configured runs.
        work: the folder of resumable state.
        command: the command that continues.
    """
    runs = [_attempt(job_table, run) for run in job_table.runs]
    return job_table.spec("report", {"work": work, "command": command, "runs": runs})


def _attempt(job_table: JobTable, run: str) -> dict[str, Any]:
    id = job_table.run_ids[run]
    upstream = job_table.upstream(id, run)
    shared = [(stage, own, own) for stage, own in upstream.items() if stage not in RUN_STAGES]
    stages = [
        {
            "stage": stage,
            "output": job_table.path(stage, own, STAGE_BY_NAME[stage].results[-1]),
            "log": f"logs/{stage}/{file}.log",
        }
        for stage, own, file in _ordered(shared)
    ]
    stages += [
        {
            "stage": stage,
            "output": job_table.run_path(run, STAGE_BY_NAME[stage].results[-1]),
            "log": f"logs/{stage}/{run}-{id}.log",
        }
        for stage in _stages_of(job_table, run)
    ]
    return {
        "run": run,
        "id": id,
        "folder": job_table.run_path(run, "").rstrip("/"),
        "files": files_of(job_table, run),
        "stages": stages,
        "training": job_table.run_spec("train_model", run),
        "rightsize": job_table.path("rightsize", upstream["rightsize"], "rightsize.json"),
        "rows": job_table.path("pack_rows", upstream["pack_rows"], "manifest.json"),
        "model": job_table.path("prepare_model", upstream["prepare_model"], "manifest.json"),
        "start": job_table.start_manifest(run),
        "rewards": job_table.rewards_by_name(run),
    }


def _stages_of(job_table: JobTable, run: str) -> list[str]:
    return [stage for stage in RUN_STAGES if job_table.merges(run) or not STAGE_BY_NAME[stage].is_after_merge]


def _ordered(stages: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Return stages in the order of the workflow."""
    order = list(STAGE_BY_NAME)
    return sorted(stages, key=lambda stage: order.index(stage[0]))
