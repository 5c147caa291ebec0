"""Reading of one shard of the sources, and the stage that combines all shards."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from snaketune.core.atomic import writing
from snaketune.core.manifest import write_manifest
from snaketune.data.records.accounting import Layout, summary_of
from snaketune.data.records.line_reading import BlockResult
from snaketune.data.records.quarantine import Quarantine
from snaketune.data.records.reading import read_records
from snaketune.data.records.reading_policy import ReadingPolicy, RecordLimits
from snaketune.data.records.record_reader import RecordReader, processes_for, reading_bar
from snaketune.data.records.shard_parts import Begun, Ended, Span, spans_of
from snaketune.data.shards import Shard, write_part
from snaketune.data.sources.pieces import Chunk
from snaketune.facts.data_facts import STAGED
from snaketune.settings.data_slices import ReadingSlice, StageSettings
from snaketune.storage.copy_targets import BUILTIN, NamedSource
from snaketune.storage.disks import Disks
from snaketune.storage.object_storage import is_remote
from snaketune.storage.stage_facts import sources_of
from snaketune.storage.staging import ensure_staged


def read_shard(
    sources: Sequence[NamedSource],
    places: Callable[[Sequence[NamedSource]], Iterable[Path]],
    policy: ReadingPolicy,
    shard: Shard,
    part: str | Path,
    threads: int = 1,
) -> None:
    """Convert the lines of one shard of the sources and write the results to the file ``part``.

    A shard opens only the sources that it has something of. Of a large file of lines it reads its own chunks, and the
    first records, which decide how the source is read. Other sources are read whole by one shard.

    Args:
        sources: all sources.
        places: returns the paths of some sources, after staging them.
        policy: how lines are read.
        shard: the shard to read.
        part: receives the results.
        threads: maximum number of processes.

    Raises:
        ConfigError: if a setting does not fit the data.
        DataError: if a source cannot be read.
    """
    spans = spans_of(sources, shard)
    found = dict(zip(spans, _places_of([sources[index] for index in spans], list(spans.values()), places), strict=True))
    reader = RecordReader(policy, BytesIO(), Quarantine(BytesIO()))
    processes = processes_for((_part_of(sources[index], span) for index, span in spans.items()), threads)
    blocks = chain.from_iterable(
        reader.blocks_of(index, sources[index], place, processes > 1, _chunks_in(sources[index], spans[index]))
        for index, place in found.items()
    )
    with reading_bar([(_part_of(sources[index], spans[index]), place) for index, place in found.items()]) as bar:
        write_part(part, _marked(_shown(reader.results(blocks, processes), bar), reader, spans))


def _places_of(
    sources: Sequence[NamedSource], spans: Sequence[Span], places: Callable[[Sequence[NamedSource]], Iterable[Path]]
) -> list[Path]:
    """Return where each source of a shard is read: a part of a local file in place, since it is read once."""
    is_part = [span.stop - span.first < span.count for span in spans]
    here = [
        part and not is_remote(one.path) and one.path not in BUILTIN for one, part in zip(sources, is_part, strict=True)
    ]
    staged = iter(places([one for one, stays in zip(sources, here, strict=True) if not stays]))
    return [Path(one.path) if stays else next(staged) for one, stays in zip(sources, here, strict=True)]


def _chunks_in(source: NamedSource, span: Span) -> Sequence[Chunk] | None:
    """Return the chunks to read of a source; None if it is read whole."""
    return source.chunks[span.first : span.stop] if source.chunks else None


def _part_of(source: NamedSource, span: Span) -> NamedSource:
    """Return a source with the bytes that are read of it."""
    if not source.chunks:
        return source
    offsets = [*(chunk.offset for chunk in source.chunks), source.bytes]
    return replace(source, bytes=offsets[span.stop] - offsets[span.first])


def _marked(results: Iterable[BlockResult], reader: RecordReader, spans: dict[int, Span]) -> Iterator[Any]:
    """Yield results, those of each source between a beginning and an end."""
    for source, of_source in groupby(results, key=lambda result: result.source):
        account = reader.accounts[source]
        yield Begun(source, account.reading, spans[source])
        yield from of_source
        if account.blocks:
            yield Ended(source, Layout(account.blocks.container, tuple(account.blocks.beside)))


def _shown(results: Iterable[BlockResult], bar: Any) -> Iterator[BlockResult]:
    for result in results:
        bar.update(result.consumed)
        yield result


@dataclass(frozen=True, slots=True)
class ReadingJob:
    """The stage: files and settings, by the names of the flags that ``read_records.py`` documents."""

    spec: str
    code: str
    cfg: ReadingSlice
    settings: StageSettings
    stage: Path
    parts: list[Path]
    records: Path
    quarantine: Path
    manifest: Path


def read_all(job: ReadingJob) -> None:
    """Read the staged sources into canonical records and a quarantine."""
    settings, work = job.settings, Path(job.settings["work"])
    sources = sources_of(STAGED.read(job.stage))
    # What shards have read needs no place.
    places = [Path(source.path) for source in sources]
    if not job.parts:
        places = ensure_staged(sources, settings["scratch"], work, Disks.of(os.environ, work))
    kept_at = work / "quarantine" / f"{job.quarantine.parent.name}.jsonl"
    policy, limits = ReadingPolicy.of_slice(job.cfg), RecordLimits.of_slice(job.cfg)
    with writing(job.records) as records, writing(job.quarantine) as quarantine:
        pairs = zip(sources, places, strict=True)
        facts = read_records(pairs, policy, records, quarantine, kept_at, settings["threads"], job.parts, limits)
    write_manifest(job.manifest, "read_records", [job.records, job.quarantine], facts)
    print(*summary_of(facts), sep="\n")
