"""Variants in the results folder that no configured run uses any more."""

import shutil
from dataclasses import dataclass
from pathlib import Path


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
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            found.append(Unused(folder, size))
    return found


def remove(unused: list[Unused]) -> None:
    """Remove the given variants, and links to run folders that are gone."""
    for variant in unused:
        shutil.rmtree(variant.path)
        latest = variant.path.parent / "latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink()
