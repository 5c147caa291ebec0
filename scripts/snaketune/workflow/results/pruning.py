"""Variants in the results folder that no configured run uses, and leftovers of killed jobs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.atomic import remove_tree
from snaketune.core.canonical import read_json
from snaketune.core.errors import ConfigError
from snaketune.workflow.results.latest_link import drop_dangling
from snaketune.workflow.results.leftovers import find_leftovers, find_unsealed, size_of
from snaketune.workflow.results.owners import UNKNOWN_OWNER, owner_of, owners_of

# Names of results; a results folder may also hold other files.
RESULT_NAME = re.compile(r"\w[\w.-]*-[0-9a-f]{8}|latest\.copy-\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Unused:
    """A removable variant with its size in bytes and its owner's name, empty for the project that asks."""

    path: Path
    size: int
    owner: str = ""


def find_unused(results: str | Path, variants: set[str], runs: set[str], own: str = "") -> list[Unused]:
    """Return the variant folders under ``results`` that are not in use, sorted; folders with other names are not ours.

    Args:
        results: the results folder.
        variants: ``stage/id`` of every data and model variant in use.
        runs: ``run/id`` of every run folder in use.
        own: the name of the project that asks, among the owners of the results.
    """
    results = Path(results)
    owners, used = owners_of(results), used_paths(variants, runs)
    found = []
    for folder in sorted([*results.glob("data/*/*/"), *results.glob("models/*/"), *results.glob("runs/*/*/")]):
        name = folder.relative_to(results).as_posix()
        if folder.is_symlink() or not folder.is_dir() or name in used or not RESULT_NAME.fullmatch(folder.name):
            continue
        owner = owner_of(name, own, owners)
        found.append(Unused(folder, size_of(folder), "" if owner == own else owner))
    return found


def used_paths(variants: Iterable[str], runs: Iterable[str]) -> set[str]:
    """Return the paths below the results folder of variants (``stage/id``) and of run folders (``run/id``)."""
    model = "prepare_model/"
    paths = {f"models/{name.removeprefix(model)}" if name.startswith(model) else f"data/{name}" for name in variants}
    return paths | {f"runs/{name}" for name in runs}


def find_unused_work(work: str | Path, results: str | Path, runs: set[str]) -> list[Unused]:
    """Return the trainers' private folders whose training belongs to no run folder in use, sorted.

    Args:
        work: the folder of resumable state.
        results: the results folder.
        runs: ``run/id`` of every run folder in use; an unfinished run keeps everything.
    """
    manifests = [Path(results) / "runs" / run / "adapter.manifest.json" for run in sorted(runs)]
    try:
        used = {read_json(manifest)["fingerprint"] for manifest in manifests}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [Unused(path, size_of(path)) for path in sorted(Path(work).glob("runs/*/")) if path.name not in used]


def find_unused_specs(work: str | Path, used: set[str]) -> list[Unused]:
    """Return the spec files that no job of a configured run uses, sorted.

    Args:
        work: the folder of resumable state.
        used: the names of those in use.
    """
    found = sorted(Path(work).glob("specs/*.json"))
    return [Unused(path, size_of(path)) for path in found if path.name not in used]


def find_left(results: str | Path, work: str | Path) -> list[Unused]:
    """Return the leftovers of killed jobs in both folders."""
    return [Unused(path, size_of(path)) for path in find_leftovers([results, work]) + find_unsealed(work)]


def remove(unused: list[Unused]) -> None:
    """Remove the given variants, and links to run folders that are gone."""
    for variant in unused:
        remove_tree(variant.path)
        drop_dangling(variant.path.parent)


def account(unused: list[Unused], removed: list[Unused], owners: Iterable[object]) -> list[str]:
    """Return what `prune` found and did, as lines, with the command that removes the rest.

    Args:
        unused: all variants that this project does not use.
        removed: those of them that were removed.
        owners: descriptions of all owners of the results, which begin with their names.
    """
    if not unused:
        return ["Nothing is unused."]
    known = {str(owner).split(" ", 1)[0]: str(owner) for owner in owners}
    lines = []
    for one in unused:
        whose = f" of {known.get(one.owner, one.owner)}" if one.owner else ""
        lines.append(f"{'Removed' if one in removed else 'Unused'}{whose}: {one.path} ({one.size / 1e6:,.1f} MB)")
    left = [one for one in unused if one not in removed]
    if any(not one.owner for one in left):
        lines.append("Remove them with: snakemake --cores 1 prune --config prune=yes")
    for owner in sorted({one.owner for one in left if one.owner}):
        whose = "no owner file names them" if owner == UNKNOWN_OWNER else f"they belong to {known.get(owner, owner)}"
        lines.append(
            f"Kept, because {whose}; to remove these as well: snakemake --cores 1 prune --config 'prune=[yes,{owner}]'"
        )
    return lines


def prune(cut: dict[str, Any]) -> list[str]:
    """Find unused variants, remove them if requested, and return a line for each.

    Args:
        cut: ``results``, ``variants``, ``runs`` and ``specs`` in use, the ``owner`` that asks, ``others`` whose results
            go, and whether to ``remove`` its own.

    Raises:
        ConfigError: if a named owner owns nothing.
    """
    results, owners = cut["results"], owners_of(Path(cut["results"]))
    if strange := set(cut["others"]) - {owner.name for owner in owners} - {UNKNOWN_OWNER}:
        known = ", ".join(owner.name for owner in owners if owner.name != cut["owner"]) or "no other project"
        raise ConfigError(f"prune: {sorted(strange)[0]!r} owns nothing in {results}: name {known}, or yes.")
    unused = find_unused(results, set(cut["variants"]), set(cut["runs"]), cut["owner"])
    unused += find_unused_work("work", results, set(cut["runs"]))
    unused += find_unused_specs("work", set(cut["specs"])) + find_left(results, "work")
    wanted = {*([""] if cut["remove"] else []), *cut["others"]}
    removed = [variant for variant in unused if variant.owner in wanted]
    remove(removed)
    return account(unused, removed, owners)
