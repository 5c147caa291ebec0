"""The paths of results by variant and run, and which of them a target wants."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from snaketune.config.resolve import ResolvedRun
from snaketune.config.run_references import (
    BASE_KEY,
    START_KEY,
    judge_name,
    merged_names,
    needed_runs,
    referenced,
    references,
    reward_names,
)
from snaketune.config.schema import LinkedConfig
from snaketune.core.canonical import canonical_text
from snaketune.core.errors import ConfigError
from snaketune.workflow.stage_table import STAGE_BY_NAME, TABLE, stage_names
from snaketune.workflow.stages import DATA_STAGES, Variant, first_run, stage_id, variants
from snaketune.workflow.write_checks import check_apart, check_folder, usable_path

# The stages after which the DAG is re-evaluated: the end of data preparation and the end of a merge.
BARRIERS = ("rightsize", "prepare_model")


class ResultPaths:
    """The configured runs as ids and paths.

    Args:
        runs: the resolved runs.

    Raises:
        ConfigError: if results or copies cannot be where the configuration puts them.
    """

    def __init__(self, runs: list[ResolvedRun]):
        self.runs = {run.name: run for run in runs}
        self.run_ids = {run.name: stage_id(run.config, "train_model") for run in runs}
        paths = runs[0].config.paths
        self.results = usable_path(paths.results, "paths.results").rstrip("/") or "/"
        self.scratch = usable_path(paths.scratch, "paths.scratch") if paths.scratch else paths.scratch
        check_folder(self.results, "paths.results")
        check_apart(self.results, Path.cwd())
        self.publish = runs[0].config.paths.publish
        self._variants = variants(runs)

    def variant(self, stage: str, id: str) -> Variant:
        """Return the variant with an id.

        Raises:
            ConfigError: if no configured run uses it.
        """
        if (stage, id) not in self._variants:
            raise ConfigError(f"{id}: no configured run uses this variant of {stage}: ask for `train` or a current id.")
        return self._variants[stage, id]

    def upstream(self, id: str, run: str | None = None) -> dict[str, str]:
        """Return the ids of all stages that a variant, or a run's folder, builds on."""
        if run is not None:
            return self.variant("train_model", id).upstream
        found = (variant.upstream for (_, own), variant in self._variants.items() if own == id)
        return next(found, {})

    def path(self, stage: str, id: str, file: str) -> str:
        """Return the path of a file of a data or model stage."""
        folder = "models" if STAGE_BY_NAME[stage].scope == "model" else f"data/{stage}"
        return f"{self.results}/{folder}/{id}/{file}"

    def run_path(self, run: str, file: str) -> str:
        """Return the path of a file of a run under its current configuration."""
        return f"{self.results}/runs/{run}/{self.run_ids[run]}/{file}"

    def planned_model(self, run: str) -> str:
        """Return the id of the model that a run is planned with, which needs no training.

        A run that starts from another run's merged model has the architecture of the model at the beginning.
        """
        return stage_id(first_run(self.runs[run].config), "prepare_model")

    def benchmark_files(self, run: str) -> str:
        """Return the benchmark file of each data and model stage that a run builds on, as JSON."""
        ids = self.upstream(self.run_ids[run], run)
        stages = [stage for stage in stage_names("data", "model") if stage in ids]
        return canonical_text({stage: f"benchmarks/{stage}/{ids[stage]}.tsv" for stage in stages})

    def probe_file(self, run: str) -> str | None:
        """Return the probe of a run, or None if it is planned without one."""
        plan = self.runs[run].config.plan
        return self.run_path(run, "probe.json") if plan.probe or plan.autotune else None

    def plan_files(self) -> list[str]:
        """Return the plan of every run, as facts and as a page."""
        return [self.run_path(run, name) for run in self.runs for name in ("plan.json", "plan.html")]

    def ablation_files(self) -> list[str]:
        """Return the ablation of every run, as facts and as a page."""
        return [self.run_path(run, name) for run in self.runs for name in ("ablate.json", "ablate.html")]

    def merges(self, run: str) -> bool:
        """Tell whether a run merges its adapter."""
        return self.runs[run].config.merge.enabled

    def base_manifest(self, id: str, run: str | None = None) -> str | None:
        """Return the facts of the merge that a base model, or a run, starts from; None without one.

        Not the manifest that ``accept_merge`` writes: that comes after the report, and Snakemake does not check jobs
        downstream of a job that has to run for changes of their own.
        """
        name = references(self._config(id, run)).get(BASE_KEY)
        return self.run_path(name, "merge.json") if name else None

    def start_manifest(self, run: str) -> str | None:
        """Return the manifest of the adapter that a run continues from, or None for a new adapter."""
        name = references(self.runs[run].config).get(START_KEY)
        return self.run_path(name, "adapter.manifest.json") if name else None

    def reward_merges(self, run: str) -> list[str]:
        """Return the facts of the merges of the reward models that a run trains by, in the order given."""
        return [self.run_path(name, "merge.json") for name in reward_names(self.runs[run].config)]

    def rewards_by_name(self, run: str) -> dict[str, str]:
        """Return those by the names of the rewards in the configuration."""
        names = [name for name in self.runs[run].config.train.grpo.rewards if referenced(name)]
        return dict(zip(names, self.reward_merges(run), strict=False))

    def judge_merge(self, run: str) -> str | None:
        """Return the facts of the merge of the reward model that judges a run's answers, None without one."""
        name = judge_name(self.runs[run].config)
        return self.run_path(name, "merge.json") if name else None

    def runs_judging(self, run: str) -> list[ResolvedRun]:
        """Return the runs that the evaluation of a run needs besides those of its training."""
        name = judge_name(self.runs[run].config)
        return [self.runs[name], *needed_runs(self.runs, self.runs[name].config, name, True)] if name else []

    def merged_manifests(self, run: str) -> list[str]:
        """Return the manifests of the adapters that a run merges together, in the order given; none for its own."""
        config = self.runs[run].config
        return (
            [self.run_path(name, "adapter.manifest.json") for name in merged_names(config)] if self.merges(run) else []
        )

    def runs_before(self, id: str, run: str | None = None, merging: bool = True) -> list[ResolvedRun]:
        """Return all runs that a base model or a run builds on, directly or not, sorted by name.

        ``merging`` includes the runs whose adapters the run merges; its training needs none of those.
        """
        return needed_runs(self.runs, self._config(id, run), run, merging)

    def barriers(self, runs: Sequence[ResolvedRun]) -> dict[str, list[str]]:
        """Return the ids of the barriers, by stage, that runs which are built on have."""
        found = {stage: {stage_id(run.config, stage) for run in runs} for stage in BARRIERS}
        return {stage: sorted(ids) for stage, ids in found.items()}

    def _config(self, id: str, run: str | None) -> LinkedConfig:
        return self.runs[run].config if run else self.variant("prepare_model", id).config

    def data_manifests(self) -> list[str]:
        """Return the manifest of every data variant."""
        return self.manifests_of(DATA_STAGES)

    def model_manifests(self) -> list[str]:
        """Return the manifest of every base model."""
        return self.manifests_of(stage_names("model"))

    def wanted_files(self) -> list[str]:
        """Return every file that the targets `train` and `plan` end in."""
        # Several runs may end in one file; Snakemake would check a duplicate twice.
        return list(dict.fromkeys([*self.data_manifests(), *self.model_manifests(), *self.run_files()]))

    def manifests_of(self, stages: Iterable[str]) -> list[str]:
        """Return what every variant of the data or model ``stages`` ends in."""
        wanted = set(stages)
        chosen = [(stage, id) for stage, id in self._variants if stage in wanted]
        return [self.path(stage, id, STAGE_BY_NAME[stage].results[-1]) for stage, id in chosen]

    def run_files(self) -> list[str]:
        """Return what every run ends in."""
        stages = [stage for stage in TABLE if stage.scope == "run" and stage.is_wanted]
        return [
            self.run_path(run, file)
            for run in self.runs
            for stage in stages
            for file in stage.results
            if stage.is_made(file, self.merges(run))
        ]

    def comparison_files(self) -> list[str]:
        """Return the comparison page of a grid; nothing if no run is part of one."""
        return [self.page("compare")] if any(run.grid for run in self.runs.values()) else []

    def target_files(self) -> dict[str, list[str]]:
        """Return what a person opens of the targets that make more than runs."""
        plans, ablations = self.plan_files(), self.ablation_files()
        return {
            "data": [f"{self.results}/data"],
            "plan": [path for path in plans if path.endswith(".html")],
            "ablate": [path for path in ablations if path.endswith(".html")],
            "compare": [self.page("compare")],
            "inspect": [self.page("inspect")],
            "export_gguf": self.gguf_files(),
        }

    def page(self, target: str) -> str:
        """Return the page of a target that covers all runs: ``compare`` or ``inspect``."""
        return f"{self.results}/{target}.html"

    def gguf_files(self) -> list[str]:
        """Return the export of every run that merges; llama.cpp does not read reward models."""
        files = []
        for name, run in self.runs.items():
            is_exported = self.merges(name) and run.config.train.method != "reward"
            types = run.config.merge.gguf_types if is_exported else []
            files += [self.run_path(name, f"model{'' if kind == 'native' else f'-{kind}'}.gguf") for kind in types]
        return files
