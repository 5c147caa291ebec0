"""Variants in the results folder that no configured run uses any more."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from snaketune.common.canonical import read_json


@dataclass(frozen=True, slots=True)
class Unused:
    """A variant that can go, with its size in bytes."""

    path: Path
    size: int


def find_unused(results: str | Path, variants: set[str], runs: set[str]) -> list[Unused]:
    """Return the variant folders under ``results`` that are not in use, sorted.

    Args:
        results: the results folder.
        variants: ``stage/id`` of every data and model variant in use.
        runs: ``run/id`` of every run folder in use.
    """
    results = Path(results)
    found = []
    for folder in sorted([*results.glob("data/*/*/"), *results.glob("models/*/"), *results.glob("runs/*/*/")]):
        if folder.is_symlink() or not folder.is_dir():
            continue
        kind = folder.relative_to(results).parts[0]
        name = f"prepare_model/{folder.name}" if kind == "models" else f"{folder.parent.name}/{folder.name}"
        if name not in (runs if kind == "runs" else variants):
            found.append(Unused(folder, _size(folder)))
    return found


def find_unused_work(work: str | Path, results: str | Path, runs: set[str]) -> list[Unused]:
    """Return the trainers' private folders whose training belongs to no run folder in use, sorted.

    Args:
        work: the folder of resumable state.
        results: the results folder.
        runs: ``run/id`` of every run folder in use; one that is not finished yet keeps everything.
    """
    manifests = [Path(results) / "runs" / run / "adapter.manifest.json" for run in sorted(runs)]
    if not all(manifest.is_file() for manifest in manifests):
        return []
    used = {read_json(manifest)["fingerprint"] for manifest in manifests}
    return [Unused(path, _size(path)) for path in sorted(Path(work).glob("runs/*/")) if path.name not in used]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove(unused: list[Unused]) -> None:
    """Remove the given variants, and links to run folders that are gone."""
    for variant in unused:
        shutil.rmtree(variant.path)
        latest = variant.path.parent / "latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink()
