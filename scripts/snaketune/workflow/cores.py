"""Sharing one machine: how many cores a data stage takes, and how many GPUs there are."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snaketune.core.gpus import count_cards
from snaketune.workflow.job_table import JobTable
from snaketune.workflow.snakemake_internals import Snakemake

# Cores that a data stage requests on a cluster: more processes would wait for the disk, and a node's other cores are
# for other jobs.
ON_A_CLUSTER = 8
GIVEN_BY_SLURM = "SLURM_CPUS_PER_TASK"


def cores_for(stage: str, id: str, job_table: JobTable, cores: int, gpus: int = 1) -> int:
    """Return the cores of a data job: all but those that a concurrent training would hold.

    Only the training of a run with other data can be concurrent: trainings on this variant wait for it, and a finished
    one holds nothing.

    Args:
        stage: the stage.
        id: the variant that is made.
        job_table: the configured runs.
        cores: what `--cores` gives.
        gpus: the maximum number of concurrent trainings.
    """
    held = sorted(
        (
            run.config.train.cpu_threads
            for name, run in job_table.runs.items()
            if job_table.upstream(job_table.run_ids[name], name).get(stage) != id
            and not Path(job_table.run_path(name, "adapter.manifest.json")).is_file()
        ),
        reverse=True,
    )
    # Only as many trainings run concurrently as there are GPUs; the ones with most threads are assumed.
    return max(1, cores - sum(held[: max(1, gpus)]))


def threads_function(snakemake: Snakemake, job_table: JobTable) -> Callable[[str], Callable[[Any], int]]:
    """Return a factory of `threads` functions for data stages.

    Args:
        snakemake: the workflow.
        job_table: the configured runs.
    """

    def threads_of(stage: str) -> Callable[[Any], int]:
        def threads(wildcards: Any) -> int:
            # Within a job of a cluster the scheduler's allocation is the truth, whatever the workflow asked for.
            if not snakemake.is_main_process and GIVEN_BY_SLURM in os.environ:
                return int(os.environ[GIVEN_BY_SLURM])
            if not snakemake.local_exec or not snakemake.is_main_process:
                return ON_A_CLUSTER
            cores = snakemake.cores_of_resources or ON_A_CLUSTER
            return cores_for(stage, wildcards.id, job_table, cores, snakemake.gpus or 1)

        return threads

    return threads_of


def share_out_gpus(snakemake: Snakemake) -> None:
    """Let as many jobs that need a GPU run at a time as this machine has GPUs; a cluster counts its own.

    Without a GPU, trainings take turns. `--resources gpu=2` or a profile decide instead.
    """
    snakemake.limit_gpus(lambda: max(1, count_cards()))
