"""Locating an input: rules give the manifest of the stage that made it, users may give the file or folder itself."""

from pathlib import Path

from snaketune.core.manifest import read_manifest


def located(path: str | Path, name: str) -> Path:
    """Return ``path`` or, if it is a manifest, ``name`` in its folder after verifying its files.

    Raises:
        DataError: if a file that the manifest lists is missing or damaged.
    """
    path = Path(path)
    if path.suffix != ".json":
        return path
    read_manifest(path)
    return path.parent / name
