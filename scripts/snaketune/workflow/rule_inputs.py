"""Input functions of the rules; some of them only check something and add no file."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from snaketune.config.resolve import ResolvedRun
from snaketune.publish.hub_upload import check_destination
from snaketune.workflow.job_environment import require_packages
from snaketune.workflow.preflight import Preflight
from snaketune.workflow.session import WORK, Session
from snaketune.workflow.snakemake_internals import ancient

InputFiles = str | list[str]
# Wildcards are Snakemake objects with an attribute for each name.
InputOfJob = Callable[[Any], InputFiles]
COMPARED = (
    *("run.json", "adapter.manifest.json", "run_info.json", "metrics.jsonl", "plan.json", "report.html"),
    *("evaluation.json", "evaluation_info.json", "documents.jsonl", "generations.jsonl"),
)
# Files of stages that the report and the cards are made from, by the names under which their scripts read them.
STAGES_REPORTED = {
    "reading": ("read_records", "manifest.json"),
    "quarantine": ("read_records", "quarantine.jsonl"),
    "dedupe": ("dedupe_records", "manifest.json"),
    "duplicates": ("dedupe_records", "duplicates.jsonl"),
    "split": ("split_records", "manifest.json"),
    "leaks": ("split_records", "leaks.jsonl"),
    "tokens": ("tokenize_records", "manifest.json"),
    "dropped": ("tokenize_records", "dropped.jsonl"),
    "pack": ("pack_rows", "manifest.json"),
}
# Files of the run, likewise.
RUN_REPORTED = {
    "run": "run.json",
    "adapter": "adapter.manifest.json",
    "metrics": "metrics.jsonl",
    "plan": "plan.json",
    "info": "run_info.json",
    "evaluation": "evaluation.json",
    "generations": "generations.jsonl",
    "timing": "evaluation_info.json",
    "history": "history.json",
}
CARDED = ("reading", "dedupe", "split", "tokens", "pack", "run", "adapter", "evaluation")


class RuleInputs:
    """The input functions; those with an argument return one.

    Args:
        session: this invocation.
        checkpoints: Snakemake's, whose ``get`` raises until a barrier is passed.
    """

    def __init__(self, session: Session, checkpoints: Any):
        self._session, self._table, self._checkpoints = session, session.job_table, checkpoints
        # Before their barrier is passed, both raise Snakemake's exception, which `cache` does not store.
        self._weights_passed = cache(lambda id: self._checkpoints.prepare_model.get(id=id).output.manifest)
        self._data_passed = cache(lambda id: self._checkpoints.rightsize.get(id=id).output.rightsize)
        self._packages_of_training = self.packages_looked_at("train_model", "adapter.manifest.json")
        self._preflight = cache(lambda: Preflight(self._table.found, WORK / "first_look.json"))

    def upstream(self, wildcards: Any) -> dict[str, str]:
        """Return the ids of all stages that the variant or run of the wildcards builds on."""
        return self._table.upstream(wildcards.id, wildcards.get("run"))

    def made_by(self, stage: str, file: str) -> InputOfJob:
        """Return the function that gives a file of an upstream stage of the job's variant."""
        return lambda wildcards: self._table.path(stage, self.upstream(wildcards)[stage], file)

    def shards(self, stage: str, file: str) -> InputOfJob:
        """Return the function that gives the files of a stage's shards; empty if one job does everything."""
        return lambda wildcards: self._table.shard_files(stage, wildcards.id, file)

    def rightsized(self, wildcards: Any) -> InputFiles:
        """Return the barrier of the data: jobs that read this small file rerun only if its content changed."""
        found: InputFiles = self._data_passed(self.upstream(wildcards)["rightsize"])
        return found

    def prepared_model(self, wildcards: Any) -> InputFiles:
        """Return the barrier of the weights: jobs that read this manifest rerun only if its content changed."""
        return self._manifest_of_weights(self.upstream(wildcards)["prepare_model"])

    def planned_model(self, wildcards: Any) -> InputFiles:
        """Return the model that a run is planned with; a plan never waits for a training."""
        return self._manifest_of_weights(self._table.planned_model(wildcards.run))

    def _manifest_of_weights(self, id: str) -> InputFiles:
        """Return the barrier of some weights, or their plain manifest if they come from another run.

        Snakemake passes a barrier that is behind others only if its job runs: jobs that wait for one that need not run
        are not re-evaluated when the others are passed.
        """
        if self._table.base_manifest(id):
            return self._table.path("prepare_model", id, "manifest.json")
        found: InputFiles = self._weights_passed(id)
        return found

    def earlier(self, wildcards: Any) -> InputFiles:
        """Return the barriers of the runs that this job builds on: it is re-evaluated when they are passed."""
        return self._barriers_of(self._table.runs_before(wildcards.id, wildcards.get("run"), merging=False))

    def earlier_of_evaluation(self, wildcards: Any) -> InputFiles:
        """Return the barriers of a run's training and of the reward model that judges its answers."""
        judging = self._barriers_of(self._table.runs_judging(wildcards.run))
        return list(dict.fromkeys([*self.earlier(wildcards), *judging]))

    def earlier_of_merge(self, wildcards: Any) -> InputFiles:
        """Return these and the barriers of the runs whose adapters are merged, for jobs that use the merged model."""
        return self._barriers_of(self._table.runs_before(wildcards.id, wildcards.run))

    def _barriers_of(self, runs: list[ResolvedRun]) -> list[str]:
        ids = self._table.barriers(runs)
        models = [id for id in ids["prepare_model"] if not self._table.base_manifest(id)]
        return [*map(self._data_passed, ids["rightsize"]), *map(self._weights_passed, models)]

    def corpus_of_tiny_model(self, wildcards: Any) -> InputFiles:
        """Return the text that the built-in model is pre-trained on, if that is the run's own training split."""
        ids = self.upstream(wildcards)
        return self._table.path("split_records", ids["split_records"], "train.jsonl") if "split_records" in ids else []

    def base_run(self, wildcards: Any) -> InputFiles:
        """Return the merged model of another run that a base model, or a run, starts from, if any."""
        return self._table.base_manifest(wildcards.id, wildcards.get("run")) or []

    def start_run(self, wildcards: Any) -> InputFiles:
        """Return the adapter of another run that training continues from, if any."""
        return self._table.start_manifest(wildcards.run) or []

    def merged_adapters(self, wildcards: Any) -> InputFiles:
        """Return the adapters that this run merges together, if it merges more than its own."""
        return self._table.merged_manifests(wildcards.run)

    def merge_facts(self, wildcards: Any) -> InputFiles:
        """Return the facts of the merge, if the run merges."""
        return self._table.run_path(wildcards.run, "merge.json") if self._table.merges(wildcards.run) else []

    def of_tokenizing(self, wildcards: Any) -> dict[str, InputFiles]:
        """Return the inputs of tokenisation, for the whole stage and for each of its shards."""
        made = {
            "train": ("split_records", "train.jsonl"),
            "eval": ("split_records", "eval.jsonl"),
            "tokenizer": ("prepare_tokenizer", "manifest.json"),
            "stage": ("stage_sources", "stage.json"),
        }
        return {name: self.made_by(*which)(wildcards) for name, which in made.items()}

    def of_training(self, wildcards: Any) -> dict[str, InputFiles]:
        """Return the inputs of a training besides its barriers: packed rows, the plan, and results of other runs.

        The plan is `ancient`: it can refuse a training, but a rewritten one must not repeat it.
        """
        return {
            "looked_at": [*self._packages_of_training(wildcards), *self.questions_looked_at(wildcards)],
            "plan": ancient(self._in_run(wildcards, "plan.json")),
            "rows": self.made_by("pack_rows", "manifest.json")(wildcards),
            "base": self.base_run(wildcards),
            "start": self.start_run(wildcards),
            "rewards": self._table.reward_merges(wildcards.run),
        }

    def of_evaluation(self, wildcards: Any) -> dict[str, InputFiles]:
        """Return the inputs of an evaluation besides its barriers; the packed rows represent the data behind them."""
        data = {"tokens": "tokenize_records", "records": "split_records"}
        return {
            "adapter": self._in_run(wildcards, "adapter.manifest.json"),
            "merged": self.merge_facts(wildcards),
            "judge": self._table.judge_merge(wildcards.run) or [],
            "rows": self.made_by("pack_rows", "manifest.json")(wildcards),
            **{name: ancient(self.made_by(stage, "manifest.json")(wildcards)) for name, stage in data.items()},
        }

    def facts_of_report(self, wildcards: Any) -> dict[str, InputFiles]:
        """Return the fact files of the stages and of the run, by the names under which the report reads them."""
        made = {name: self.made_by(*which)(wildcards) for name, which in STAGES_REPORTED.items()}
        return {**made, **{name: self._in_run(wildcards, file) for name, file in RUN_REPORTED.items()}}

    def _in_run(self, wildcards: Any, file: str) -> str:
        return f"{self._table.results}/runs/{wildcards.run}/{wildcards.id}/{file}"

    def facts_of_card(self, wildcards: Any) -> dict[str, InputFiles]:
        """Return the fact files that a model card reads."""
        facts = self.facts_of_report(wildcards)
        return {name: facts[name] for name in CARDED}

    def carded_merge(self, wildcards: Any) -> InputFiles:
        """Return the facts of the merge; the card of the merged model requires one that passed its check."""
        is_merged = wildcards.kind == "merged"
        return self._table.run_path(wildcards.run, "merged.manifest.json") if is_merged else self.merge_facts(wildcards)

    def probed(self, wildcards: Any) -> InputFiles:
        """Return the measurements for the plan, if the configuration asks for them."""
        return self._table.probe_file(wildcards.run) or []

    def compared_facts(self, wildcards: Any) -> InputFiles:
        """Return the fact files of the runs to compare."""
        runs = self._session.named("compare", self._table.compared)
        return [self._table.run_path(run, name) for run in runs for name in COMPARED]

    def published(self, wildcards: Any) -> InputFiles:
        """Return the files to publish, after checking the destination."""
        if self._session.snakemake.is_main_process:
            self._session.or_stop(lambda: check_destination(self._table.publish))
        return self._table.wanted_files()

    def sources_looked_at(self, wildcards: Any) -> InputFiles:
        """Return no file, but check the beginnings of the sources."""
        return self._check_now(
            lambda preflight: preflight.check_sources(self._table.variant("read_records", wildcards.id).config)
        )

    def questions_looked_at(self, wildcards: Any) -> InputFiles:
        """Return no file, but check the evaluation files of the run."""
        config = self._table.runs[wildcards.run].config
        return self._check_now(lambda preflight: preflight.check_evaluation_files(wildcards.run, config))

    def _check_now(self, check: Callable[[Preflight], None]) -> list[str]:
        """Check, while jobs are planned (also with `-n`), what jobs would otherwise only notice when they run."""

        def run_check() -> None:
            check(self._preflight())
            self._preflight().save()

        if self._session.snakemake.is_main_process:
            self._session.or_stop(run_check)
        return []

    def packages_looked_at(self, stage: str, made: str) -> InputOfJob:
        """Return no file, but check that the packages of a pending job are installed, also with `-n`."""
        snakemake = self._session.snakemake

        def check(wildcards: Any) -> InputFiles:
            run, table = wildcards.get("run"), self._table
            path = table.run_path(run, made) if run else table.path(stage, wildcards.id, made)
            if snakemake.is_main_process and snakemake.uses_this_interpreter and not Path(path).exists():
                config = (table.runs[run] if run else table.variant(stage, wildcards.id)).config
                self._session.or_stop(lambda: require_packages(run, config, stage))
            return []

        return check
