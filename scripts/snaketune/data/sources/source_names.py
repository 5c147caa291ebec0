"""The names of the user's files, for messages about their records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snaketune.facts.data_facts import STAGED


def names_in(stage: str | Path) -> list[str]:
    """Return the paths of the sources in stage.json, indexed by the source number of the records."""
    return [entry["path"] for entry in STAGED.read(stage)["sources"]]


def place_of(record: Mapping[str, Any], sources: Sequence[str], unknown: str) -> str:
    """Return the user's file and line of a record, or ``unknown`` if the files are not known."""
    if record.get("source", -1) in range(len(sources)):
        return f"{sources[record['source']]} line {record['line']}"
    return unknown
