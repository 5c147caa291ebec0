"""What stage.json says: the sources, and where the lines of large files begin."""

from collections.abc import Iterable
from dataclasses import asdict, astuple
from typing import Any

from snaketune.data.sources.pieces import Chunk
from snaketune.storage.copy_targets import NamedSource


def facts_of(sources: Iterable[NamedSource]) -> dict[str, Any]:
    """Return the content of stage.json without the index of lines."""
    return {"sources": [_written(source) for source in sources]}


def _written(source: NamedSource) -> dict[str, Any]:
    """Return a source as a dictionary, without its index and without empty ``options`` and ``part``."""
    given = {key: value for key, value in asdict(source).items() if key != "chunks"}
    return {key: value for key, value in given.items() if value or key not in ("options", "part")}


def index_of(sources: Iterable[NamedSource]) -> dict[str, Any]:
    """Return what stage.json has besides: the chunks of large files of lines, by the number of the source.

    Empty if no source has any.
    """
    found = {
        str(number): [[*astuple(chunk)] for chunk in source.chunks]
        for number, source in enumerate(sources)
        if source.chunks
    }
    return {"chunks": found} if found else {}


def sources_of(facts: dict[str, Any]) -> list[NamedSource]:
    """Return the sources listed in stage.json."""
    chunks = facts.get("chunks", {})
    return [
        NamedSource(**entry, chunks=tuple(Chunk(*chunk) for chunk in chunks.get(str(number), ())))
        for number, entry in enumerate(facts["sources"])
    ]
