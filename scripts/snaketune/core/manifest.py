"""Manifests: a small deterministic record of a stage's outputs, checked before they are used."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from snaketune.core.atomic import write_json
from snaketune.core.canonical import read_json
from snaketune.core.digests import file_digest, files_under
from snaketune.core.errors import DataError

# Of manifests; it rises when a reader of the former one would misread them.
FORMAT = 1


def describe_files(paths: Iterable[str | Path], root: str | Path) -> dict[str, dict[str, Any]]:
    """Return ``{path relative to root: {bytes, digest}}`` for the files at or under ``paths``."""
    root = Path(root)
    # Sorted, because a directory lists its files in an order of its own.
    files = sorted({file for path in paths for file in files_under(path)})
    return {
        file.relative_to(root).as_posix(): {"bytes": file.stat().st_size, "digest": file_digest(file)} for file in files
    }


def write_manifest(path: str | Path, stage: str, outputs: Iterable[str | Path], facts: Mapping[str, Any]) -> None:
    """Write the manifest of a stage: the digests of ``outputs`` and the stage's own ``facts``.

    Paths are stored relative to the manifest's folder, so that a results folder can be moved. It contains no clock,
    host or absolute path: the same content gives the same bytes.
    """
    path = Path(path)
    write_json(path, {"format": FORMAT, "stage": stage, "files": describe_files(outputs, path.parent), **facts})


def listed_files(manifest: str | Path) -> dict[str, dict[str, Any]] | None:
    """Return the files that a manifest lists, with their sizes and digests; None if it is malformed."""
    try:
        files = read_json(manifest)["files"]
        return files if all(_is_entry(name, entry) for name, entry in files.items()) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_entry(name: str, entry: Mapping[str, Any]) -> bool:
    return (
        # A manifest from elsewhere must not make this program read, compare or report files outside its folder.
        not name.startswith("/")
        and ".." not in name.split("/")
        and isinstance(entry["bytes"], int)
        and isinstance(entry["digest"], str)
    )


def damaged_files(manifest: str | Path) -> list[str]:
    """Return the files of ``manifest`` that are missing or whose content differs, relative to its folder.

    A malformed manifest names itself.
    """
    manifest = Path(manifest)
    if (files := listed_files(manifest)) is None:
        return [manifest.name]
    bad = []
    for name, entry in files.items():
        file = manifest.parent / name
        # The size first: it costs no reading.
        if not file.is_file() or file.stat().st_size != entry["bytes"] or file_digest(file) != entry["digest"]:
            bad.append(name)
    return bad


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Return the manifest at ``path`` after checking every file it lists.

    Raises:
        DataError: if a file is missing or damaged. The manifest is removed first, so that running the same command
            again rebuilds the stage.
    """
    path = Path(path)
    if bad := damaged_files(path):
        raise mark_damaged(path, bad[0])
    found: dict[str, Any] = read_json(path)
    return found


def mark_damaged(manifest: Path, name: str) -> DataError:
    """Remove the manifest of a damaged file, so that the next command rebuilds the stage, and return the error.

    Args:
        manifest: the manifest.
        name: the damaged file, relative to its folder.
    """
    found = (
        f"{manifest.parent / name} does not have the content its manifest records (deleted, edited or damaged on disk)"
    )
    if name == manifest.name:
        found = f"{manifest} is no longer a valid manifest (edited or damaged on disk)"
    try:
        manifest.unlink(missing_ok=True)
    except OSError as error:
        return DataError(f"{found}, and {manifest} cannot be removed ({error.strerror}): make its folder writable.")
    return DataError(f"{found}: {manifest.name} was removed; run the same command again to rebuild the stage.")
