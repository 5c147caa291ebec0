"""Whether a run is finished; until then a separate page shows its progress."""

from pathlib import Path

UNFINISHED = "unfinished.html"


def is_finished(files: list[str]) -> bool:
    """Tell whether all final files of a run exist."""
    return all(Path(path).is_file() for path in files)
