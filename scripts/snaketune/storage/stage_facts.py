"""What stage.json says: the sources, and where the lines of large files begin."""

from collections.abc import Iterable
from dataclasses import astuple

from snaketune.data.sources.pieces import Chunk
from snaketune.facts.data_facts import StagedChunk, StagedSource, StagedSources
from snaketune.storage.copy_targets import NamedSource


def facts_of(sources: Iterable[NamedSource]) -> StagedSources:
    """Return the content of stage.json without the index of lines."""
    return {"sources": [_written(source) for source in sources]}


def _written(source: NamedSource) -> StagedSource:
    """Return a source as a dictionary, without its index and without empty ``options`` and ``part``."""
    entry: StagedSource = {"path": source.path, "bytes": source.bytes, "digest": source.digest}
    if source.options:
        entry["options"] = source.options
    if source.part:
        entry["part"] = source.part
    return entry


def index_of(sources: Iterable[NamedSource]) -> dict[str, dict[str, list[StagedChunk]]]:
    """Return what stage.json has besides: the chunks of large files of lines, by the number of the source.

    Empty if no source has any.
    """
    found = {
        str(number): [[*astuple(chunk)] for chunk in source.chunks]
        for number, source in enumerate(sources)
        if source.chunks
    }
    return {"chunks": found} if found else {}


def sources_of(facts: StagedSources) -> list[NamedSource]:
    """Return the sources listed in stage.json."""
    chunks = facts.get("chunks", {})
    return [
        NamedSource(
            entry["path"],
            entry["bytes"],
            entry["digest"],
            entry.get("options", {}),
            entry.get("part", 0),
            tuple(Chunk(*chunk) for chunk in chunks.get(str(number), ())),
        )
        for number, entry in enumerate(facts["sources"])
    ]
