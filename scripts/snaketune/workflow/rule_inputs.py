"""What rules take for `input`: functions of the wildcards, some of which only look and add no file."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from snaketune.config.resolve import ResolvedRun
from snaketune.publish.hub_upload import check_destination
from snaketune.workflow.job_environment import require_packages
from snaketune.workflow.preflight import FirstLook
from snaketune.workflow.session import WORK, Session
from snaketune.workflow.snakemake_internals import ancient

Files = str | list[str]
# Wildcards are objects of Snakemake with an attribute for each name.
ByWildcards = Callable[[Any], Files]
COMPARED = (
    *("run.json", "adapter.manifest.json", "run_info.json", "metrics.jsonl", "plan.json", "report.html"),
    *("evaluation.json", "evaluation_info.json", "documents.jsonl", "generations.jsonl"),
)
# What the report and the cards are made from, by the names that their scripts read it under: files of stages.
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
# And files of the run.
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
        # Before their barrier is passed both raise Snakemake's exception, which is not remembered.
        self._weights_passed = cache(lambda id: self._checkpoints.prepare_model.get(id=id).output.manifest)
        self._data_passed = cache(lambda id: self._checkpoints.rightsize.get(id=id).output.rightsize)
        self._packages_of_training = self.packages_looked_at("train_model", "adapter.manifest.json")
        self._first_look = cache(lambda: FirstLook(self._table.found, WORK / "first_look.json"))

    def upstream(self, wildcards: Any) -> dict[str, str]:
        """Return the ids of all stages that the variant or run of the wildcards builds on."""
        return self._table.upstream(wildcards.id, wildcards.get("run"))

    def made_by(self, stage: str, file: str) -> ByWildcards:
        """The file of an earlier stage that the job's variant builds on."""
        return lambda wildcards: self._table.path(stage, self.upstream(wildcards)[stage], file)

    def shards(self, stage: str, file: str) -> ByWildcards:
        """What the shards of a stage have made; nothing where one job does everything."""
        return lambda wildcards: self._table.shard_files(stage, wildcards.id, file)

    def rightsized(self, wildcards: Any) -> Files:
        """The barrier of the data: what takes this small file reruns only when its content changed."""
        found: Files = self._data_passed(self.upstream(wildcards)["rightsize"])
        return found

    def prepared_model(self, wildcards: Any) -> Files:
        """The barrier of the weights: what takes this manifest reruns only when its content changed."""
        return self._manifest_of_weights(self.upstream(wildcards)["prepare_model"])

    def planned_model(self, wildcards: Any) -> Files:
        """The model that a run is planned with; a plan waits for no training."""
        return self._manifest_of_weights(self._table.planned_model(wildcards.run))

    def _manifest_of_weights(self, id: str) -> Files:
        """Return the barrier of some weights, or their plain manifest where they are another run's.

        Snakemake passes a barrier behind others only when its job runs: what waits for one that need not run is not
        judged again when the others are passed.
        """
        if self._table.base_manifest(id):
            return self._table.path("prepare_model", id, "manifest.json")
        found: Files = self._weights_passed(id)
        return found

    def earlier(self, wildcards: Any) -> Files:
        """The barriers of the runs that this job builds on: when they are passed, it is evaluated again."""
        return self._barriers_of(self._table.runs_before(wildcards.id, wildcards.get("run"), merging=False))

    def earlier_of_merge(self, wildcards: Any) -> Files:
        """Those, and the barriers of the runs whose adapters this run merges, for jobs that use its merged model."""
        return self._barriers_of(self._table.runs_before(wildcards.id, wildcards.run))

    def _barriers_of(self, runs: list[ResolvedRun]) -> list[str]:
        ids = self._table.barriers(runs)
        models = [id for id in ids["prepare_model"] if not self._table.base_manifest(id)]
        return [*map(self._data_passed, ids["rightsize"]), *map(self._weights_passed, models)]

    def corpus_of_tiny_model(self, wildcards: Any) -> Files:
        """The text that the built-in model learns first, when that is the run's own training split."""
        ids = self.upstream(wildcards)
        return self._table.path("split_records", ids["split_records"], "train.jsonl") if "split_records" in ids else []

    def base_run(self, wildcards: Any) -> Files:
        """The merged model that a base model, or a run, starts from, when it is another run's."""
        return self._table.base_manifest(wildcards.id, wildcards.get("run")) or []

    def start_run(self, wildcards: Any) -> Files:
        """The adapter that training continues from, when it is another run's."""
        return self._table.start_manifest(wildcards.run) or []

    def merged_adapters(self, wildcards: Any) -> Files:
        """The adapters that this run merges together, when it merges more than its own."""
        return self._table.merged_manifests(wildcards.run)

    def merge_facts(self, wildcards: Any) -> Files:
        """What became of the merge, when the run merges."""
        return self._table.run_path(wildcards.run, "merge.json") if self._table.merges(wildcards.run) else []

    def of_tokenizing(self, wildcards: Any) -> dict[str, Files]:
        """What is tokenised and with what, for the whole stage and for each of its shards."""
        made = {
            "train": ("split_records", "train.jsonl"),
            "eval": ("split_records", "eval.jsonl"),
            "tokenizer": ("prepare_tokenizer", "manifest.json"),
            "stage": ("stage_sources", "stage.json"),
        }
        return {name: self.made_by(*which)(wildcards) for name, which in made.items()}

    def of_training(self, wildcards: Any) -> dict[str, Files]:
        """What a training reads beside its barriers: packed rows, the plan, and what it takes from other runs.

        The plan only refuses: one that is written again with the same limits trains nothing again.
        """
        return {
            "looked_at": [*self._packages_of_training(wildcards), *self.questions_looked_at(wildcards)],
            "plan": ancient(self._in_run(wildcards, "plan.json")),
            "rows": self.made_by("pack_rows", "manifest.json")(wildcards),
            "base": self.base_run(wildcards),
            "start": self.start_run(wildcards),
        }

    def of_evaluation(self, wildcards: Any) -> dict[str, Files]:
        """What an evaluation reads beside its barriers; the packed rows stand for the data that they are made of."""
        data = {"tokens": "tokenize_records", "records": "split_records"}
        return {
            "adapter": self._in_run(wildcards, "adapter.manifest.json"),
            "merged": self.merge_facts(wildcards),
            "rows": self.made_by("pack_rows", "manifest.json")(wildcards),
            **{name: ancient(self.made_by(stage, "manifest.json")(wildcards)) for name, stage in data.items()},
        }

    def facts_of_report(self, wildcards: Any) -> dict[str, Files]:
        """The fact files of the stages and of the run, by the names that the report reads them under."""
        made = {name: self.made_by(*which)(wildcards) for name, which in STAGES_REPORTED.items()}
        return {**made, **{name: self._in_run(wildcards, file) for name, file in RUN_REPORTED.items()}}

    def _in_run(self, wildcards: Any, file: str) -> str:
        return f"{self._table.results}/runs/{wildcards.run}/{wildcards.id}/{file}"

    def facts_of_card(self, wildcards: Any) -> dict[str, Files]:
        """Those that a model card reads."""
        facts = self.facts_of_report(wildcards)
        return {name: facts[name] for name in CARDED}

    def carded_merge(self, wildcards: Any) -> Files:
        """The same for the card of the adapter; that of the merged model needs one that passed."""
        is_merged = wildcards.kind == "merged"
        return self._table.run_path(wildcards.run, "merged.manifest.json") if is_merged else self.merge_facts(wildcards)

    def probed(self, wildcards: Any) -> Files:
        """What was measured for the plan, when the configuration asks for it."""
        return self._table.probe_file(wildcards.run) or []

    def compared_facts(self, wildcards: Any) -> Files:
        """The fact files of the runs to compare."""
        runs = self._session.named("compare", self._table.compared)
        return [self._table.run_path(run, name) for run in runs for name in COMPARED]

    def published(self, wildcards: Any) -> Files:
        """What there is to publish, once it is clear that it can be."""
        if self._session.snakemake.is_main_process:
            self._session.or_stop(lambda: check_destination(self._table.publish))
        return self._table.wanted_files()

    def sources_looked_at(self, wildcards: Any) -> Files:
        """No file: the beginnings of the sources are read."""
        return self._look(lambda look: look.check_sources(self._table.variant("read_records", wildcards.id).config))

    def questions_looked_at(self, wildcards: Any) -> Files:
        """No file: the evaluation files of the run are read."""
        config = self._table.runs[wildcards.run].config
        return self._look(lambda look: look.check_evaluation_files(wildcards.run, config))

    def _look(self, check: Callable[[FirstLook], None]) -> list[str]:
        """Look, while jobs are planned, at what they would only meet when they run; `-n` plans them, too."""

        def look() -> None:
            check(self._first_look())
            self._first_look().save()

        if self._session.snakemake.is_main_process:
            self._session.or_stop(look)
        return []

    def packages_looked_at(self, stage: str, made: str) -> ByWildcards:
        """No file: what a job that is still to do imports is installed here; `-n` looks, too."""
        snakemake = self._session.snakemake

        def check(wildcards: Any) -> Files:
            run, table = wildcards.get("run"), self._table
            path = table.run_path(run, made) if run else table.path(stage, wildcards.id, made)
            if snakemake.is_main_process and snakemake.uses_this_interpreter and not Path(path).exists():
                config = (table.runs[run] if run else table.variant(stage, wildcards.id)).config
                self._session.or_stop(lambda: require_packages(run, config, stage))
            return []

        return check
