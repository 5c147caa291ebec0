"""The form of a row in the table of stages; ``stage_table`` has the rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

# What the results of a stage belong to: runs with the same configuration share data and models; pages have their own
# targets.
Scope = Literal["data", "model", "run", "page"]


@dataclass(frozen=True, slots=True)
class ResourceNeed:
    """The resources of a stage: a fixed part, and a part per gigabyte of sources.

    Attributes:
        megabytes, megabytes_per_gb: memory, about twice what was measured (docs/scaling.md), page cache included.
        minutes, minutes_per_gb: time, about ten times what two cores took, because nodes and file systems differ.
    """

    megabytes: int
    megabytes_per_gb: int
    minutes: int
    minutes_per_gb: int


@dataclass(frozen=True, slots=True)
class ShardRule:
    """A rule whose jobs each build one shard of a stage.

    Attributes:
        rule: its name.
        file: the output of a job, below the variant's folder, with ``{}`` for the shard's name.
        label: its name in the terminal; empty for bookkeeping.
    """

    rule: str
    file: str
    label: str = ""


def after(*names: str) -> Callable[[Any], tuple[str, ...]]:
    """Return the ``parents`` of a stage whose parents are the same in every configuration."""
    return lambda config: names


_FIRST = after()


@dataclass(frozen=True, slots=True)
class Stage:
    """A row of the table.

    Attributes:
        name: of the rule and of its script.
        scope: what its results belong to.
        keys: the keys and sections of the configuration that it depends on; None if it depends on results of other
            stages only and has neither a slice nor an id.
        parents: the upstream stages, by configuration; those of a stage without a slice are stated in its rule.
        results: its final files; the terminal shows facts of the first.
        beside: further small files that the same job writes.
        has_job_per_result: whether each result is built by a separate job.
        is_wanted: whether a run is finished only with its results.
        is_after_merge: whether it runs only in runs that merge; files that begin with ``merged`` always do.
        is_cost: whether it estimates the cost of a run, which is not part of the run's identity.
        is_timed: whether Snakemake records its time in ``benchmarks/``.
        is_local: whether it takes seconds, or needs the internet, which cluster nodes often lack.
        is_long: whether the terminal announces its start, because its own lines follow.
        label: its name in the terminal; empty for bookkeeping, which is shown only if it fails.
        title: its name in pages.
        shard_rules: the rules that each build a shard of it if the data are large.
        need: its resource request on a cluster.
    """

    name: str
    scope: Scope
    keys: tuple[str, ...] | None = None
    parents: Callable[[Any], tuple[str, ...]] = _FIRST
    results: tuple[str, ...] = ("manifest.json",)
    beside: tuple[str, ...] = ()
    has_job_per_result: bool = False
    is_wanted: bool = False
    is_after_merge: bool = False
    is_cost: bool = False
    is_timed: bool = False
    is_local: bool = False
    is_long: bool = False
    label: str = ""
    title: str = ""
    shard_rules: tuple[ShardRule, ...] = ()
    need: ResourceNeed | None = None

    def is_made(self, file: str, merges: bool) -> bool:
        """Tell whether a run has this result, depending on whether it merges."""
        return merges or not (self.is_after_merge or file.startswith("merged"))

    def groups(self) -> list[tuple[str, ...]]:
        """Return the small files that each of its jobs writes together; weights are left out."""
        files = sorted(file for file in (*self.results, *self.beside) if not file.endswith(".gguf"))
        return [(file,) for file in files] if self.has_job_per_result else [tuple(files)] if files else []
