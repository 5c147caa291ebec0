"""Where an input lies: rules name the manifest of the stage that made it, a person may name the thing itself."""

from pathlib import Path

from snaketune.core.manifest import read_manifest


def located(path: str | Path, name: str) -> Path:
    """Return ``path`` itself or, when it is a manifest, what it describes: ``name`` beside it, its content checked.

    Raises:
        DataError: if a file that the manifest lists is missing or damaged.
    """
    path = Path(path)
    if path.suffix != ".json":
        return path
    read_manifest(path)
    return path.parent / name
