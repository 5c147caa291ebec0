"""Functions of the rules for `params`, `threads` and `resources`.

The only recorded param of a rule is its ``spec``. Settings that merely say where a job works, and with which resources,
are operational.
"""

from collections.abc import Callable
from typing import Any

from snaketune.core.canonical import canonical_text
from snaketune.workflow import lifecycle
from snaketune.workflow.asking import ask_spec
from snaketune.workflow.results import run_status
from snaketune.workflow.results.specs_in_use import specs_in_use
from snaketune.workflow.session import WORK, Session, own_command, resolved_file
from snaketune.workflow.snakemake_internals import operational

# Wildcards are Snakemake objects with an attribute for each name.
ParamOfJob = Callable[[Any], Any]


class RuleParams:
    """The functions for params, threads and resources; those with an argument return one.

    Args:
        session: this invocation.
    """

    def __init__(self, session: Session):
        self._session, self._table = session, session.job_table
        table = self._table
        self.loader_settings = operational(lambda wildcards: table.loader_settings(wildcards.run))
        self.ablate_settings = operational(lambda wildcards: table.ablate_settings(wildcards.run))
        self.converter_settings = operational(lambda wildcards: table.converter_settings(wildcards.run))
        self.stage_benchmarks = operational(lambda wildcards: table.benchmark_files(wildcards.run))
        self.results = operational(lambda wildcards: table.results)
        # Where the times of a run's stages are noted.
        self.history_settings = operational(
            lambda wildcards: run_status.history_settings(table, wildcards.run, WORK / "workflow.lock")
        )

    def settings(self, wildcards: Any, threads: int) -> str:
        """Return the operational settings of a data stage; as a function of `threads` they are not recorded."""
        return self._table.settings(str(WORK), threads)

    def spec(self, stage: str, job: str | None = None) -> ParamOfJob:
        """Return the function that gives the spec of a stage that several runs may share, or of its shard jobs."""
        return lambda wildcards: self._table.variant_spec(stage, wildcards.id, job)

    def run_spec(self, stage: str) -> ParamOfJob:
        """Return the function that gives the spec of a stage that belongs to one run."""
        return lambda wildcards: self._table.run_spec(stage, wildcards.run)

    def page_spec(self, stage: str) -> ParamOfJob:
        """Return the function that gives the spec of a page that depends on one fact file only."""
        return lambda wildcards: self._table.spec(stage, {"run": wildcards.run, "id": wildcards.id})

    def fact_spec(self, stage: str) -> ParamOfJob:
        """Return the function that gives the spec of a stage that depends on fact files only."""
        return lambda wildcards: self._table.spec(stage, {})

    def plan_spec(self, wildcards: Any) -> str:
        """Return the spec of a run's plan: its configuration and the prices."""
        return self._table.plan_spec(wildcards.run)

    def probe_spec(self, wildcards: Any) -> str:
        """Return the spec of a run's probe."""
        return self._table.probe_spec(wildcards.run)

    def ablate_spec(self, wildcards: Any) -> str:
        """Return the spec of a run's ablation of all factors, or of those in `--config ablate=[packing,rank]`."""
        return self._table.ablate_spec(wildcards.run, self._session.named("ablate", self._table.ablated))

    def description_spec(self, wildcards: Any) -> str:
        """Return the spec of a run's description."""
        return self._table.description_spec(wildcards.run, wildcards.id)

    def resolved(self, wildcards: Any) -> str:
        """Return the path of the resolved configuration of a run."""
        return str(resolved_file(wildcards.run, wildcards.id))

    def gguf_spec(self, wildcards: Any) -> str:
        """Return the spec of the GGUF export, which depends on the merged model and the system prompt only."""
        system = self._table.runs[wildcards.run].config.data.system_prompt
        return self._table.spec("convert_to_gguf", {"system": system})

    def attempts_spec(self, wildcards: Any) -> str:
        """Return the spec with the facts and logs of every run, also of unfinished ones."""
        return run_status.attempts_spec(self._table, str(WORK), own_command(("report", "train")))

    def prune_spec(self, wildcards: Any) -> str:
        """Return the spec of `prune`: what it keeps, and whether it removes the rest."""
        switch = self._session.switches["prune"]
        given = switch if isinstance(switch, list) else [switch]
        others = [str(name) for name in given if not lifecycle.is_yes(name) and not lifecycle.is_no(name)]
        is_yes = any(map(lifecycle.is_yes, given))
        return self._table.prune_spec(is_yes, self._session.places.owner(), others, specs_in_use(self._table))

    def publish_spec(self, wildcards: Any) -> str:
        """Return the spec of `publish`: the folders to upload and their destination."""
        return self._table.publish_spec()

    def ask_spec(self, wildcards: Any) -> str:
        """Return the spec of `ask`: the models, and the question of `--config ask="..."` or a conversation."""
        return self._session.or_stop(lambda: ask_spec(self._table, self._session.switches["ask"]))

    def inspect_spec(self, wildcards: Any) -> str:
        """Return the spec of `inspect`: the sources of all runs, each with its tokenizer and template."""
        return self._table.inspect_spec()

    def compare_spec(self, wildcards: Any) -> str:
        """Return the spec of `compare` for all runs, or for those in `--config compare=[a,b]`."""
        return self._table.compare_spec(self._session.named("compare", self._table.compared))

    def cpu_threads(self, wildcards: Any) -> int:
        """Return the threads that a run computes with on a CPU."""
        return self._table.runs[wildcards.run].config.train.cpu_threads


def named_files(wildcards: Any, input: Any) -> str:
    """Return the named input files of a job as JSON, for a script that reads many; barriers of other runs are left out.

    Snakemake does not record params of functions that take ``input``: the inputs are recorded already.
    """
    # Lists are barriers that only order jobs; scripts read single, named files.
    return canonical_text({name: str(file) for name, file in input.items() if isinstance(file, str)})
