"""What the rules of one invocation share: inputs, params and requests by wildcards; no rules here."""

import sys
from pathlib import Path

SCRIPTS = Path(workflow.basedir) / "scripts"
if not (SCRIPTS / "snaketune").is_dir():
    # Another workflow's `module`: our own errors cannot be imported yet.
    print(
        "ConfigError: snaketune works in its own folder, with its own configuration, and cannot be a `module` of"
        f" another workflow: call it in a job there, as in `shell: 'cd {Path(workflow.current_basedir).parent} &&"
        " snakemake --cores {threads} train'`, and take its results by their paths.",
        file=sys.stderr,
    )
    sys.exit(2)
sys.path.insert(0, str(SCRIPTS))

from snaketune.workflow.cluster_resources import Requests
from snaketune.workflow.cores import threads_function
from snaketune.workflow.rule_inputs import RuleInputs
from snaketune.workflow.rule_params import RuleParams, named_files
from snaketune.workflow.session import Session
from snaketune.workflow.snakemake_internals import Snakemake

SESSION = Session(Snakemake(workflow))
JOB_TABLE = SESSION.job_table
INPUTS = RuleInputs(SESSION, checkpoints)
PARAMS = RuleParams(SESSION)
# What jobs ask a cluster for.
REQUESTS = Requests(SESSION.snakemake, JOB_TABLE)
# The `threads` function of a data stage: what trainings beside it leave.
data_threads = threads_function(SESSION.snakemake, JOB_TABLE)


pathvars:
    results=JOB_TABLE.results,


wildcard_constraints:
    id=r"[A-Za-z0-9._-]+",
    run=r"[A-Za-z0-9._-]+",
    shard=r"\d+-of-\d+",


def shown(file, caption, category, **labels):
    """An output in the folder of a run that `snakemake --report` shows."""
    return report(
        f"<results>/runs/{{run}}/{{id}}/{file}",
        caption=f"../docs/captions/{caption}.rst",
        category=category,
        labels={"run": "{run}", "variant": "{id}", **labels},
    )
