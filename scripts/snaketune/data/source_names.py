"""The names of the user's files, for sentences about their records."""

from pathlib import Path

from snaketune.common.canonical import read_json


def names_in(stage: str | Path) -> list[str]:
    """Return the path of each source that stage.json lists, by its number in the records."""
    return [str(entry["path"]) for entry in read_json(stage)["sources"]]
