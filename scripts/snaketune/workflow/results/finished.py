"""Whether a run came to its end; until then a page of its own says how far it came."""

from pathlib import Path

UNFINISHED = "unfinished.html"


def is_finished(files: list[str]) -> bool:
    """Tell whether all files that a run ends in are there."""
    return all(Path(path).is_file() for path in files)
