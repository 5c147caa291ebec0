"""The specs too long for a command line that configured runs still use."""

from collections.abc import Iterator
from pathlib import PurePath

from snaketune.ablate.factors import FACTOR_NAMES as FACTORS
from snaketune.core.long_arguments import MARK
from snaketune.workflow.job_table import JobTable
from snaketune.workflow.stage_table import STAGE_BY_NAME, stage_names


def specs_in_use(job_table: JobTable) -> list[str]:
    """Return the names of the files, sorted, that hold a spec of a job of the configured runs.

    A missing one is written again under the same name when a job needs it.
    """
    specs = {*_of_variants(job_table), *_of_runs(job_table)}
    return sorted(PurePath(spec.removeprefix(MARK)).name for spec in specs if spec.startswith(MARK))


def _of_variants(job_table: JobTable) -> Iterator[str]:
    for variant in job_table.in_use()[0]:
        stage, id = variant.split("/")
        if stage in stage_names("data", "model"):
            for job in (None, *(shard.rule for shard in STAGE_BY_NAME[stage].shard_rules)):
                yield job_table.variant_spec(stage, id, job)


def _of_runs(job_table: JobTable) -> Iterator[str]:
    for run, id in job_table.run_ids.items():
        for stage in stage_names("run"):
            if STAGE_BY_NAME[stage].keys is not None and not STAGE_BY_NAME[stage].is_cost:
                yield job_table.run_spec(stage, run)
        yield job_table.plan_spec(run)
        yield job_table.probe_spec(run)
        yield job_table.ablate_spec(run, list(FACTORS))
        yield job_table.description_spec(run, id)
