"""What a row of the table of stages says; ``stage_table`` has the rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

# Whose results a stage makes: runs share data and models that their configuration shares; pages have
# targets of their own.
Scope = Literal["data", "model", "run", "page"]


@dataclass(frozen=True, slots=True)
class Need:
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
class Share:
    """A rule of which each job does one share of a stage.

    Attributes:
        rule: its name.
        file: what a job makes, below the variant's folder, with ``{}`` for the shard's name.
        label: its name in the terminal; empty for bookkeeping.
    """

    rule: str
    file: str
    label: str = ""


def after(*names: str) -> Callable[[Any], tuple[str, ...]]:
    """Return the parents of a stage that has the same ones in every configuration."""
    return lambda config: names


_FIRST = after()


@dataclass(frozen=True, slots=True)
class Stage:
    """A row of the table.

    Attributes:
        name: of the rule and of its script.
        scope: whose results it makes.
        keys: the keys and sections of the configuration that it depends on; None where it has no slice and no id of
            its own, because it depends on other stages' results alone.
        parents: the stages whose results it uses, by configuration; those of a stage without a slice are in its rule.
        results: the files that it ends in; the terminal shows facts of the first.
        beside: small files that the same job writes beside those.
        has_job_per_result: whether each of them is made by a job of its own.
        is_wanted: whether a run is finished only with its results.
        is_after_merge: whether it happens only in runs that merge; files that begin with ``merged`` are always so.
        is_cost: whether it says what a run would cost, which is no part of what the run is.
        is_timed: whether Snakemake keeps what it took in ``benchmarks/``.
        is_local: whether it takes seconds, or needs the internet, which the nodes of a cluster often lack.
        is_long: whether the terminal says that it begins, because its own lines follow.
        label: its name in the terminal; empty for bookkeeping, which is shown only when it fails.
        title: its name in pages.
        shares: the rules that each do a share of it where the data are large.
        need: what it asks a cluster for.
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
    shares: tuple[Share, ...] = ()
    need: Need | None = None

    def is_made(self, file: str, merges: bool) -> bool:
        """Tell whether a run, which merges or not, has this result."""
        return merges or not (self.is_after_merge or file.startswith("merged"))

    def groups(self) -> list[tuple[str, ...]]:
        """Return the small files that one job writes beside each other, for each of its jobs; not weights."""
        files = sorted(file for file in (*self.results, *self.beside) if not file.endswith(".gguf"))
        return [(file,) for file in files] if self.has_job_per_result else [tuple(files)] if files else []
