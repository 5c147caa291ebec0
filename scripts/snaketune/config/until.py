"""`--until RULE` as what it means: the results of that rule, for every configured run.

Snakemake 9 keeps `--until` beside a checkpoint only up to the checkpoint: the jobs after it are forgotten, and the
workflow ends with status 0 and without them, or in "BUG: Out of jobs ready to be started".
"""

import functools
from collections.abc import Iterable
from typing import Any

from snaketune.config.blueprint import Blueprint
from snaketune.config.stages import DATA_STAGES

RESULTS_OF_RUN = {
    "probe_run": ("probe.json",),
    "plan_run": ("plan.json",),
    "render_plan": ("plan.html",),
    "train_model": ("adapter.manifest.json",),
    "merge_adapter": ("merge.json",),
    "accept_merge": ("merged.manifest.json",),
    "evaluate_model": ("evaluation.json",),
    "describe_run": ("run.json",),
    "render_report": ("report.html",),
    "write_model_card": ("adapter_card.md", "merged_card.md"),
    "convert_to_gguf": ("model.gguf",),
}
OF_MERGE = frozenset({"merge.json", "merged.manifest.json", "merged_card.md", "model.gguf"})


def results_until(rules: Iterable[str], blueprint: Blueprint) -> list[str] | None:
    """Return the files that the named rules end in; None if one of the names is no rule with results of its own."""
    found: list[str] = []
    for rule in rules:
        if rule in (*DATA_STAGES, "prepare_model"):
            found += blueprint.manifests_of((rule,))
        elif rule in RESULTS_OF_RUN:
            found += [
                blueprint.run_path(run, file)
                for run in blueprint.runs
                for file in RESULTS_OF_RUN[rule]
                if _is_made(file, run, blueprint)
            ]
        else:
            return None
    return found


def _is_made(file: str, run: str, blueprint: Blueprint) -> bool:
    if file == "probe.json":
        return blueprint.probe_file(run) is not None
    return file not in OF_MERGE or blueprint.merges(run)


def replace_until(workflow: Any, blueprint: Blueprint) -> None:
    """Let Snakemake's object make the results of the rules after `--until` instead, when it draws its jobs.

    The command line's words reach the object only after the Snakefile was read.
    """
    prepare = workflow._prepare_dag

    @functools.wraps(prepare)
    def prepare_dag(*arguments: Any, **settings: Any) -> Any:
        asked = workflow.dag_settings
        if asked and (files := results_until(sorted(asked.until), blueprint)):
            asked.targets, asked.until = frozenset(files), frozenset()
        return prepare(*arguments, **settings)

    workflow._prepare_dag = prepare_dag
