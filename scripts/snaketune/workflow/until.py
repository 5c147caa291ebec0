"""`--until RULE` as the results of that rule for every configured run.

Snakemake 9 honours `--until` only up to a checkpoint: the jobs after it are dropped, and the workflow ends with status
0 without them, or with "BUG: Out of jobs ready to be started".
"""

import difflib
from collections.abc import Callable, Sequence
from typing import NoReturn

from snaketune.core.errors import ConfigError
from snaketune.workflow.job_table import JobTable
from snaketune.workflow.snakemake_internals import Snakemake
from snaketune.workflow.stage_table import STAGE_BY_NAME, TABLE, stage_names

SHARD_RULES = {shard.rule: (stage.name, shard.file) for stage in TABLE for shard in stage.shard_rules}


def results_until(names: Sequence[str], job_table: JobTable) -> list[str]:
    """Return the result files of the named rules, and files that are named directly.

    Raises:
        ConfigError: if a name is not a file and no rule that a configured run has results of.
    """
    found: list[str] = []
    for rule in names:
        if "/" in rule:
            found.append(rule)
        elif rule in stage_names("data", "model"):
            found += job_table.manifests_of((rule,))
        elif rule in SHARD_RULES:
            found += job_table.shards_of(*SHARD_RULES[rule])
        elif rule in stage_names("run"):
            found += [
                job_table.run_path(run, file)
                for run in job_table.runs
                for file in STAGE_BY_NAME[rule].results
                if _is_made(rule, file, run, job_table)
            ]
        else:
            raise ConfigError(f"--until {rule}: {_why_not(rule)}")
    if not found:
        rules = ", ".join(names)
        raise ConfigError(
            f"--until {rules}: no configured run has this stage: see plan.probe, merge.enabled, data.shards."
        )
    return found


def _why_not(rule: str) -> str:
    known = stage_names("data", "model", "run")
    near = difflib.get_close_matches(rule, known, 1)
    hint = f" ({near[0]}?)" if near else ""
    return f"not a stage of a run{hint}: use one of {', '.join(known)}, a file, or a target without --until."


def _is_made(rule: str, file: str, run: str, job_table: JobTable) -> bool:
    if rule == "probe_run":
        return job_table.probe_file(run) is not None
    return STAGE_BY_NAME[rule].is_made(file, job_table.merges(run))


def replace_until(snakemake: Snakemake, job_table: JobTable, stop: Callable[[ConfigError], NoReturn]) -> None:
    """Let Snakemake make the results of the rules after `--until` instead, when it builds the DAG.

    Args:
        snakemake: the workflow.
        job_table: the configured runs.
        stop: ends the workflow with the sentence of an error.
    """

    def replace() -> None:
        if asked := snakemake.until:
            try:
                targets = results_until(asked, job_table)
            except ConfigError as error:
                stop(error)
            snakemake.replace_until(targets)

    snakemake.before_dag(replace)
