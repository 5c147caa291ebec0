"""What rules take for `params`, `threads` and `resources`: functions of the wildcards.

The one recorded param of a rule is its ``spec``. What only says where and with how much a job works is operational.
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

# Wildcards are objects of Snakemake with an attribute for each name.
ByWildcards = Callable[[Any], Any]


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
        """The operational settings of a data stage; with the number of threads, so that they are not recorded."""
        return self._table.settings(str(WORK), threads)

    def spec(self, stage: str, job: str | None = None) -> ByWildcards:
        """The spec of a stage that several runs may share, or of the jobs that each do one share of it."""
        return lambda wildcards: self._table.variant_spec(stage, wildcards.id, job)

    def run_spec(self, stage: str) -> ByWildcards:
        """The spec of a stage that belongs to one run."""
        return lambda wildcards: self._table.run_spec(stage, wildcards.run)

    def page_spec(self, stage: str) -> ByWildcards:
        """The spec of a page that depends on one fact file alone."""
        return lambda wildcards: self._table.spec(stage, {"run": wildcards.run, "id": wildcards.id})

    def fact_spec(self, stage: str) -> ByWildcards:
        """The spec of a stage that depends on fact files alone."""
        return lambda wildcards: self._table.spec(stage, {})

    def plan_spec(self, wildcards: Any) -> str:
        """What a run's plan depends on beside the fact files: its configuration and the prices."""
        return self._table.plan_spec(wildcards.run)

    def probe_spec(self, wildcards: Any) -> str:
        """What a run's probe trains with."""
        return self._table.probe_spec(wildcards.run)

    def ablate_spec(self, wildcards: Any) -> str:
        """What a run's ablation measures: all factors, or those of `--config ablate=[packing,rank]`."""
        return self._table.ablate_spec(wildcards.run, self._session.named("ablate", self._table.ablated))

    def description_spec(self, wildcards: Any) -> str:
        """What a run's description depends on beside the fact files."""
        return self._table.description_spec(wildcards.run, wildcards.id)

    def resolved(self, wildcards: Any) -> str:
        """Where the resolved configuration of a run is."""
        return str(resolved_file(wildcards.run, wildcards.id))

    def gguf_spec(self, wildcards: Any) -> str:
        """The export depends on the merged model and the system prompt alone."""
        system = self._table.runs[wildcards.run].config.data.system_prompt
        return self._table.spec("convert_to_gguf", {"system": system})

    def attempts_spec(self, wildcards: Any) -> str:
        """Where the facts and logs of every run are, also of an unfinished one."""
        return run_status.attempts_spec(self._table, str(WORK), own_command(("report", "train")))

    def prune_spec(self, wildcards: Any) -> str:
        """What `prune` keeps, and whether it removes the rest."""
        switch = self._session.switches["prune"]
        given = switch if isinstance(switch, list) else [switch]
        others = [str(name) for name in given if not lifecycle.is_yes(name) and not lifecycle.is_no(name)]
        is_yes = any(map(lifecycle.is_yes, given))
        return self._table.prune_spec(is_yes, self._session.places.owner(), others, specs_in_use(self._table))

    def publish_spec(self, wildcards: Any) -> str:
        """Which folders `publish` uploads, and where to."""
        return self._table.publish_spec()

    def ask_spec(self, wildcards: Any) -> str:
        """Which models are asked, and what: `--config ask="..."`, or a conversation."""
        return self._session.or_stop(lambda: ask_spec(self._table, self._session.switches["ask"]))

    def inspect_spec(self, wildcards: Any) -> str:
        """What is looked at: the sources of all runs, each with its tokenizer and template."""
        return self._table.inspect_spec()

    def compare_spec(self, wildcards: Any) -> str:
        """Which runs stand side by side: all of them, or those of `--config compare=[a,b]`."""
        return self._table.compare_spec(self._session.named("compare", self._table.compared))

    def cpu_threads(self, wildcards: Any) -> int:
        """Threads that a run's arithmetic uses on a CPU."""
        return self._table.runs[wildcards.run].config.train.cpu_threads


def named_files(wildcards: Any, input: Any) -> str:
    """The input files of a job by their names, as JSON, for a script that reads many; barriers of other runs are none.

    Snakemake does not record params of functions that take ``input``: the inputs are recorded already.
    """
    return canonical_text({name: str(file) for name, file in input.items() if isinstance(file, str)})
