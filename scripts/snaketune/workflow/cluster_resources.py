"""Resource requests of jobs on a cluster, from the size of the data, the processes of a training and the attempt.

None of them is in a spec: any node with enough resources gives the same results.
"""

import math
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from snaketune.config.resolve import ResolvedRun
from snaketune.workflow.job_table import JobTable
from snaketune.workflow.snakemake_internals import Snakemake
from snaketune.workflow.stage import ResourceNeed
from snaketune.workflow.stage_table import STAGE_BY_NAME

# Wildcards are objects of Snakemake with an attribute for each name.
ResourceOfJob = Callable[..., Any]
GIGABYTE = 10**9
# Sources above this size are too much work for a login node.
MOST_ON_LOGIN_NODE = 4 << 30
SCHEDULER_SECONDS = 10.0
UNACCOUNTED = "accounting_storage/none"


def memory_mb(stage: str, size: int, attempt: int = 1) -> int:
    """Return the memory of a stage in MB for ``size`` bytes of sources; doubled with each further attempt."""
    need = _need_of(stage)
    # A retry after running out of memory needs more of it: the attempt doubles the request.
    found: int = math.ceil(need.megabytes + need.megabytes_per_gb * size / GIGABYTE) * 2 ** (attempt - 1)
    return found


def minutes(stage: str, size: int, attempt: int = 1) -> int:
    """Return the time limit of a stage in minutes for ``size`` bytes of sources, likewise."""
    need = _need_of(stage)
    found: int = math.ceil(need.minutes + need.minutes_per_gb * size / GIGABYTE) * 2 ** (attempt - 1)
    return found


def _need_of(stage: str) -> ResourceNeed:
    need = STAGE_BY_NAME[stage].need
    assert need is not None, f"{stage} has no resource request in the table of stages"
    return need


def cpus_of_training(run: ResolvedRun) -> int:
    """Return the cores that a training uses on each node: per process, for its computation or for feeding a GPU."""
    train, plan = run.config.train, run.config.plan
    processes = 1 if train.strategy == "single" else plan.num_gpus // plan.num_nodes
    # In addition to the loaders, one that computes and one that copies to the GPU.
    return processes * max(train.cpu_threads, train.dataloader_num_workers + 2)


def gpus_of_one_node(run: ResolvedRun) -> int:
    """Return how many GPUs a training has when they are all in one machine; 0 for several."""
    plan = run.config.plan
    return plan.num_gpus if plan.num_nodes == 1 else 0


def gpus_of_each_node(run: ResolvedRun) -> str | None:
    """Return the `gres` of several nodes: Slurm would otherwise be free to give one more than another."""
    plan = run.config.plan
    return f"gpu:{plan.num_gpus // plan.num_nodes}" if plan.num_nodes > 1 else None


def is_for_login_node(sizes: Sequence[int]) -> bool:
    """Tell whether the length can be chosen on a login node, judged by the bytes of the runs' sources."""
    return max(sizes) <= MOST_ON_LOGIN_NODE


class Requests:
    """The resource functions of the rules; on a single machine only `--resources mem_mb=…` limits anything.

    Args:
        snakemake: the workflow.
        job_table: the configured runs.
    """

    def __init__(self, snakemake: Snakemake, job_table: JobTable):
        self._snakemake, self._table = snakemake, job_table

    def by_size(self, stage: str, in_shards: bool = False) -> dict[str, ResourceOfJob]:
        """Return the `mem_mb` and `runtime` of a stage, or of each of its shards, which grow with its data."""
        return {
            "mem_mb": self._function(memory_mb, stage, in_shards),
            "runtime": self._function(minutes, stage, in_shards),
        }

    def of_training(self) -> dict[str, ResourceOfJob]:
        """Return the GPUs of a training, as `gpu` on one node and as `gres` of each of several, its nodes and cores."""
        return {
            "gpu": lambda wildcards: gpus_of_one_node(self._run(wildcards)),
            "gres": lambda wildcards: gpus_of_each_node(self._run(wildcards)),
            "nodes": lambda wildcards: self._run(wildcards).config.plan.num_nodes,
            "cpus_per_task": lambda wildcards: cpus_of_training(self._run(wildcards)) if self._is_cluster() else None,
        }

    def retries(self) -> int | None:
        """Return how often a data job is retried: once on a cluster, with twice the memory.

        None leaves it to `--retries`.
        """
        return None if self._snakemake.local_exec else 1

    def _is_cluster(self) -> bool:
        # The Snakemake inside a cluster job executes its job locally.
        return not self._snakemake.local_exec or not self._snakemake.is_main_process

    def _run(self, wildcards: Any) -> ResolvedRun:
        return self._table.runs[wildcards.run]

    def _function(self, of: Callable[[str, int, int], int], stage: str, in_shards: bool) -> Callable[..., int]:
        def ask(wildcards: Any, attempt: int) -> int:
            # Stored bytes, since nothing has been read when a job is submitted.
            size = self._table.found.bytes_of(self._table.variant(stage, wildcards.id).config)
            share = self._table.shards(stage, wildcards.id) if in_shards else 1
            return of(stage, size // share, attempt)

        return ask


def has_accounting(ask: Callable[[], str] | None = None) -> bool:
    """Tell whether Slurm has accounting, without which `sacct` and `--account` fail; True if Slurm does not answer.

    Args:
        ask: returns Slurm's configuration.
    """
    answer = (ask or _configuration)()
    found = [line.partition("=")[2].strip() for line in answer.splitlines() if line.startswith("AccountingStorageType")]
    # Since Slurm 23.11 the setting may be empty.
    return not found or found[0] not in (UNACCOUNTED, "(null)", "")


def _configuration() -> str:
    if not shutil.which("scontrol"):
        return ""
    try:
        command = ["scontrol", "show", "config"]
        return subprocess.run(command, capture_output=True, text=True, timeout=SCHEDULER_SECONDS).stdout
    # A scheduler that does not answer must not stop a workflow; without an answer accounting is assumed.
    except (OSError, subprocess.TimeoutExpired):
        return ""
