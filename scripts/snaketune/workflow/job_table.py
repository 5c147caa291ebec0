"""The job table: the spec of every job, the paths of every result, and which results a target wants."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from snaketune.ablate.factors import FACTOR_NAMES as FACTORS
from snaketune.config.consistency import check_run
from snaketune.config.merged_adapters import check_merged_adapters
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
from snaketune.core.long_arguments import shortened
from snaketune.data.shards import MOST_SHARDS, names_of
from snaketune.plan.advice.preset_files import presets_digest
from snaketune.plan.devices.hardware import catalogue_digest
from snaketune.publish.hub_upload import is_hub
from snaketune.workflow.sources.inputs import ExternalInputs
from snaketune.workflow.stage_table import STAGE_BY_NAME, TABLE, stage_names
from snaketune.workflow.stages import (
    CONFIGURED_STAGES,
    DATA_STAGES,
    OPERATIONAL,
    Variant,
    first_run,
    slice_of,
    stage_id,
    variants,
)
from snaketune.workflow.write_checks import check_apart, check_folder, usable_path

# Bytes of sources per shard; smaller shards would only add jobs.
SHARD_BYTES = 4 << 30
# The stages after which the DAG is re-evaluated: the end of data preparation and the end of a merge.
BARRIERS = ("rightsize", "prepare_model")
LOADER_KEYS = tuple(key.removeprefix("train.") for key in sorted(OPERATIONAL) if key.startswith("train."))


class JobTable:
    """The configured runs as specs, ids and paths.

    Args:
        runs: the resolved runs.
        found: external inputs of the workflow.
        code_of: returns the digest of a stage's code.
        shards_before: numbers of shards by stage and id in earlier workflows.
        specs: folder of the specs that are too long for a command line.

    Raises:
        ConfigError: if settings of a run contradict each other.
    """

    def __init__(
        self,
        runs: list[ResolvedRun],
        found: ExternalInputs,
        code_of: Callable[[str], str],
        shards_before: Mapping[str, int] | None = None,
        specs: str | Path = "work/specs",
    ):
        for run in runs:
            check_run(run)
            check_merged_adapters(run)
        self.runs = {run.name: run for run in runs}
        self.run_ids = {run.name: stage_id(run.config, "train_model") for run in runs}
        paths = runs[0].config.paths
        self.results = usable_path(paths.results, "paths.results").rstrip("/") or "/"
        self.scratch = usable_path(paths.scratch, "paths.scratch") if paths.scratch else paths.scratch
        check_folder(self.results, "paths.results")
        check_apart(self.results, Path.cwd())
        self.publish = runs[0].config.paths.publish
        self.found = found
        self._code_of, self._specs = code_of, specs
        self._variants = variants(runs)
        self._shards_before = shards_before or {}

    def spec(self, stage: str, settings: Mapping[str, Any]) -> str:
        """Return the ``spec`` of a rule: everything that determines its result, as canonical JSON for its script."""
        return shortened(canonical_text({"stage": stage, "code": self._code_of(stage), "cfg": settings}), self._specs)

    def variant_spec(self, stage: str, id: str, job: str | None = None) -> str:
        """Return the spec of a variant that several runs may share, or of the jobs that each build one shard of it.

        Args:
            stage: the stage that the variant is of.
            id: the variant.
            job: the name of the shard jobs, if one job does not build the whole stage.
        """
        variant = self.variant(stage, id)
        return self.spec(job or stage, {**variant.cfg, **self.found.outside(stage, variant.config)})

    def shards(self, stage: str, id: str) -> int:
        """Return the number of shards of a variant: as built before, else as configured or by the size of its data."""
        # The number of shards does not change the result, but it is part of the paths of the jobs: with another number,
        # a finished variant would be built again.
        made = Path(self.path(stage, id, "manifest.json")).is_file()
        config = self.variant(stage, id).config
        if made and f"{stage}/{id}" in self._shards_before:
            return self._shards_before[f"{stage}/{id}"]
        if config.data.shards != "auto":
            return config.data.shards
        return max(1, min(MOST_SHARDS, self.found.bytes_of(config) // SHARD_BYTES))

    def shard_files(self, stage: str, id: str, file: str) -> list[str]:
        """Return the files of all shards of a variant, in order; ``{}`` in the name stands for the shard's."""
        if file.startswith("sketches") and not self.variant(stage, id).config.dedupe.near:
            return []
        return [self.path(stage, id, file.format(name)) for name in names_of(self.shards(stage, id))]

    def shards_of(self, stage: str, file: str) -> list[str]:
        """Return the files of all shards of every variant of a stage, see :meth:`shard_files`."""
        ids = [id for name, id in self._variants if name == stage]
        return [path for id in ids for path in self.shard_files(stage, id, file)]

    def shard_counts(self) -> dict[str, int]:
        """Return the number of shards of every variant of a stage that can have several."""
        return {
            f"{stage}/{id}": self.shards(stage, id) for stage, id in self._variants if STAGE_BY_NAME[stage].shard_rules
        }

    def run_spec(self, stage: str, run: str) -> str:
        """Return the spec of a stage that belongs to one run."""
        config = self.runs[run].config
        return self.spec(stage, {**slice_of(config, stage), **self.found.outside(stage, config)})

    def plan_spec(self, run: str) -> str:
        """Return the spec of a run's plan: its configuration, the presets, and the catalogue of devices and prices."""
        known = {"catalogue": self._catalogue, "presets": presets_digest()}
        return self.spec("plan_run", {**slice_of(self.runs[run].config, "plan_run"), **known})

    @cached_property
    def _catalogue(self) -> str:
        return catalogue_digest()

    def probe_spec(self, run: str) -> str:
        """Return the spec of a run's probe: its training settings, and whether other settings are tried."""
        config = self.runs[run].config
        return self.spec("probe_run", {**slice_of(config, "train_model"), "autotune": config.plan.autotune})

    def ablated(self, wanted: str | Sequence[str]) -> list[str]:
        """Return the names of the factors to measure: ``wanted``, or all of them.

        Raises:
            ConfigError: if there is no such factor.
        """
        return sorted(chosen("ablate", "factor", wanted, FACTORS), key=FACTORS.index)

    def ablate_spec(self, run: str, wanted: list[str]) -> str:
        """Return the spec of a run's ablation: what it trains, on which rows, at which price, and the factors."""
        stages = {
            "training": "train_model",
            "planning": "plan_run",
            "lengths": "rightsize",
            "tokenizing": "tokenize_records",
        }
        slices = {name: slice_of(self.runs[run].config, stage) for name, stage in stages.items()}
        return self.spec("ablate_run", {**slices, "factors": wanted, "catalogue": self._catalogue})

    def ablate_settings(self, run: str) -> str:
        """Return the operational settings of an ablation as JSON: those of training, and the scratch folder."""
        train = self.runs[run].config.train
        return canonical_text({"scratch": self.scratch, **{name: getattr(train, name) for name in LOADER_KEYS}})

    def description_spec(self, run: str, id: str) -> str:
        """Return the spec of a run's description: its whole configuration, without origins, and all code."""
        # Stages that only estimate costs do not change what the run is.
        stages = [name for name, stage in CONFIGURED_STAGES.items() if not stage.is_cost]
        slices = {stage: slice_of(self.runs[run].config, stage) for stage in stages}
        codes = {stage: self._code_of(stage) for stage in stages}
        return self.spec("describe_run", {"run": run, "id": id, "stages": slices, "code": codes})

    def prune_spec(self, remove: bool, owner: str = "", others: Sequence[str] = (), specs: Sequence[str] = ()) -> str:
        """Return the spec of pruning: the variants in use.

        Args:
            remove: whether to remove what this project does not use.
            owner: its name among the owners of the results.
            others: names of owners whose results are to be removed as well.
            specs: names of the long specs that are in use.
        """
        kept, runs = self.in_use()
        cfg = {"results": self.results, "variants": kept, "runs": runs, "remove": remove}
        return self.spec("prune", {**cfg, "owner": owner, "others": list(others), "specs": list(specs)})

    def in_use(self) -> tuple[list[str], list[str]]:
        """Return ``stage/id`` of every data and model variant in use, and ``run/id`` of every run folder."""
        kept = sorted(f"{stage}/{id}" for stage, id in self._variants)
        return kept, sorted(f"{name}/{id}" for name, id in self.run_ids.items())

    def publish_spec(self) -> str:
        """Return the spec of publishing: the folder of each run and where it goes."""
        place, is_private = (
            (self.publish or "").rstrip("/"),
            next(iter(self.runs.values())).config.paths.publish_private,
        )
        # A repository of the hub holds one model; a bucket has a folder for each.
        ends = {name: f"/runs/{name}/{id}" for name, id in self.run_ids.items()}
        if is_hub(place):
            # A single run needs no suffix, so its repository has the name that was configured.
            ends = {name: f"-{name}" if len(self.runs) > 1 else "" for name in self.run_ids}
        folders = {name: f"{self.results}/runs/{name}/{id}" for name, id in self.run_ids.items()}
        entries = [{"folder": folders[name], "url": f"{place}{end}"} for name, end in ends.items()]
        return self.spec("publish", {"runs": entries, "private": is_private})

    def inspect_spec(self) -> str:
        """Return the spec of an inspection: runs that read the same sources for the same model in the same way."""
        groups: dict[str, dict[str, Any]] = {}
        for name, run in self.runs.items():
            values = {
                **run.config.model_dump(mode="json"),
                "model": first_run(run.config).model.model_dump(mode="json"),
            }
            cfg = {section: values[section] for section in ("data", "tokens", "model")}
            cfg |= {"train": {"method": run.config.train.method}}
            cfg["data"].pop("sources")
            group = {"cfg": cfg, "sources": self.found.places(run.config)}
            groups.setdefault(canonical_text(group), {**group, "runs": []})["runs"].append(name)
        return self.spec("inspect_sources", {"groups": list(groups.values())})

    def compared(self, wanted: str | Sequence[str]) -> list[str]:
        """Return the names of the runs to compare: ``wanted`` in that order, or all of them.

        Raises:
            ConfigError: if a wanted run is not configured, or there are not two.
        """
        names = list(dict.fromkeys(chosen("compare", "run", wanted, self.runs)))
        if len(names) < 2:
            raise ConfigError(
                f"compare: {names[0]} is a single run: name two, as in `--config compare=[a,b]`, or add one under "
                "`runs`."
            )
        return names

    def compare_spec(self, names: list[str]) -> str:
        """Return the spec of a comparison: the folders of the runs, and of all results."""
        folders = [f"{self.results}/runs/{name}/{self.run_ids[name]}" for name in names]
        return self.spec("compare_runs", {"results": self.results, "folders": folders})

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

    def converter_settings(self, run: str) -> str:
        """Return the operational settings of an export as JSON."""
        return canonical_text({"gguf_converter": self.runs[run].config.merge.gguf_converter})

    def settings(self, work: str, threads: int) -> str:
        """Return the operational settings of a data stage as JSON."""
        return canonical_text({"scratch": self.scratch, "threads": threads, "work": work})

    def loader_settings(self, run: str) -> str:
        """Return the operational settings of training as JSON: device, row loading and checkpointing."""
        config = self.runs[run].config
        values = {name: getattr(config.train, name) for name in LOADER_KEYS}
        return canonical_text({**values, "scratch": self.scratch, "num_nodes": config.plan.num_nodes})


def chosen(switch: str, kind: str, wanted: str | Sequence[str], known: Iterable[str]) -> list[str]:
    """Return what a switch of `--config` names: one name or several, in the given order.

    All ``known`` names if none is given.

    Args:
        switch: its name, for the error.
        kind: what it chooses from.
        wanted: what was given.
        known: what there is.

    Raises:
        ConfigError: if there is no such thing.
    """
    names = [wanted] if isinstance(wanted, str) else [str(name) for name in wanted]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"{switch}: there is no {kind} {unknown[0]!r}: use some of {', '.join(known)}.")
    return names or list(known)
