"""What the rules are made from: the spec of every job, the paths of every result, and which of them are wanted."""

from collections.abc import Callable, Iterable
from typing import Any

from snaketune.common.canonical import canonical_text
from snaketune.common.errors import ConfigError
from snaketune.config.discovery import Discovery
from snaketune.config.resolve import ResolvedRun
from snaketune.config.stages import DATA_STAGES, OPERATIONAL, STAGES, Variant, slice_of, stage_id, variants

LOADER_KEYS = tuple(key.removeprefix("train.") for key in sorted(OPERATIONAL) if key.startswith("train."))


class Blueprint:
    """The configured runs as specs, ids and paths.

    Args:
        runs: the resolved runs.
        found: what lies outside of the workflow.
        code_of: returns the digest of a stage's code.
    """

    def __init__(self, runs: list[ResolvedRun], found: Discovery, code_of: Callable[[str], str]):
        self.runs = {run.name: run for run in runs}
        self.run_ids = {run.name: stage_id(run.config, "train_model") for run in runs}
        self.results = runs[0].config.paths.results
        self.scratch = runs[0].config.paths.scratch
        self.found = found
        self._code_of = code_of
        self._variants = variants(runs)

    def spec(self, stage: str, cfg: dict[str, Any]) -> str:
        """Return the one param of a rule: what decides its result, as canonical JSON that its script also reads."""
        return canonical_text({"stage": stage, "code": self._code_of(stage), "cfg": cfg})

    def variant_spec(self, stage: str, id: str) -> str:
        """Return the spec of a variant that several runs may share."""
        variant = self.variant(stage, id)
        return self.spec(stage, {**variant.cfg, **self.found.outside(stage, variant.config)})

    def run_spec(self, stage: str, run: str) -> str:
        """Return the spec of a stage that belongs to one run."""
        return self.spec(stage, slice_of(self.runs[run].config, stage))

    def description_spec(self, run: str, id: str) -> str:
        """Return the spec of a run's description: its whole configuration, without origins, and all code."""
        slices = {stage: slice_of(self.runs[run].config, stage) for stage in STAGES}
        codes = {stage: self._code_of(stage) for stage in STAGES}
        return self.spec("describe_run", {"run": run, "id": id, "stages": slices, "code": codes})

    def prune_spec(self, remove: bool) -> str:
        """Return the spec of pruning: what is in use."""
        kept = sorted(f"{stage}/{id}" for stage, id in self._variants)
        runs = sorted(f"{name}/{id}" for name, id in self.run_ids.items())
        return self.spec("prune", {"results": self.results, "variants": kept, "runs": runs, "remove": remove})

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
        folder = "models" if stage == "prepare_model" else f"data/{stage}"
        return f"{self.results}/{folder}/{id}/{file}"

    def run_path(self, run: str, file: str) -> str:
        """Return the path of a file of a run under its current configuration."""
        return f"{self.results}/runs/{run}/{self.run_ids[run]}/{file}"

    def merges(self, run: str) -> bool:
        """Tell whether a run merges its adapter."""
        return self.runs[run].config.merge.enabled

    def data_manifests(self) -> list[str]:
        """Return the manifest of every data variant."""
        return self._manifests(DATA_STAGES)

    def model_manifests(self) -> list[str]:
        """Return the manifest of every base model."""
        return self._manifests(("prepare_model",))

    def _manifests(self, stages: Iterable[str]) -> list[str]:
        names, wanted = {"rightsize": "rightsize.json"}, set(stages)
        chosen = [(stage, id) for stage, id in self._variants if stage in wanted]
        return [self.path(stage, id, names.get(stage, "manifest.json")) for stage, id in chosen]

    def run_files(self) -> list[str]:
        """Return what every run ends in."""
        files = ("adapter.manifest.json", "evaluation.json", "run.json", "report.html")
        wanted = [self.run_path(run, file) for run in self.runs for file in files]
        return wanted + [self.run_path(run, "merged.manifest.json") for run in self.runs if self.merges(run)]

    def settings(self, work: str, threads: int) -> str:
        """Return the operational settings of a data stage as JSON."""
        return canonical_text({"scratch": self.scratch, "threads": threads, "work": work})

    def loader_settings(self, run: str) -> str:
        """Return the operational settings of training as JSON: loading rows and saving progress."""
        train = self.runs[run].config.train
        return canonical_text({name: getattr(train, name) for name in LOADER_KEYS})
