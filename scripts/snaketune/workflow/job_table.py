"""The job table: the spec and the operational settings of every job, beside the paths of its results."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from snaketune.ablate.factors import FACTOR_NAMES as FACTORS
from snaketune.config.consistency import check_run
from snaketune.config.merged_adapters import check_merged_adapters
from snaketune.config.resolve import ResolvedRun
from snaketune.core.canonical import canonical_text
from snaketune.core.errors import ConfigError
from snaketune.core.long_arguments import shortened
from snaketune.data.shards import MOST_SHARDS, names_of
from snaketune.plan.advice.preset_files import presets_digest
from snaketune.plan.devices.hardware import catalogue_digest
from snaketune.publish.hub_upload import is_hub
from snaketune.workflow.results.result_paths import ResultPaths
from snaketune.workflow.sources.inputs import ExternalInputs
from snaketune.workflow.stage_table import STAGE_BY_NAME
from snaketune.workflow.stages import (
    CONFIGURED_STAGES,
    OPERATIONAL,
    first_run,
    slice_of,
)

# Bytes of sources per shard; smaller shards would only add jobs.
SHARD_BYTES = 4 << 30
LOADER_KEYS = tuple(key.removeprefix("train.") for key in sorted(OPERATIONAL) if key.startswith("train."))


class JobTable(ResultPaths):
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
        super().__init__(runs)
        self.found = found
        self._code_of, self._specs = code_of, specs
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
