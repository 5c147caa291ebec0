"""Reading of one shard of the sources, and the stage that combines all shards."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

from snaketune.core.atomic import writing
from snaketune.core.canonical import read_json
from snaketune.core.manifest import write_manifest
from snaketune.data.records.accounting import summary_of
from snaketune.data.records.line_reading import BlockResult
from snaketune.data.records.quarantine import Quarantine
from snaketune.data.records.reading import RecordReader, processes_for, read_records, reading_bar
from snaketune.data.records.reading_policy import Limits, ReadingPolicy
from snaketune.data.shards import Shard, write_part
from snaketune.data.sources.blocks import Block
from snaketune.settings.data_slices import ReadingSlice, StageSettings
from snaketune.storage.copy_targets import Source
from snaketune.storage.disks import Disks
from snaketune.storage.staging import ensure_staged, sources_of


def read_shard(
    sources: Sequence[Source],
    places: Callable[[Sequence[Source]], Iterable[Path]],
    policy: ReadingPolicy,
    shard: Shard,
    part: str | Path,
    threads: int = 1,
) -> None:
    """Convert the lines of one shard of the sources and write the results to the file ``part``.

    A shard skips sources that belong entirely to other shards. It reads a source that begins in an earlier shard from
    the start, to find the number of its first line, which costs little compared with conversion, and stops at its end.

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
    own = sources_of_shard(sources, shard)
    some = [sources[index] for index in own]
    found = dict(zip(own, places(some), strict=True))
    reader = RecordReader(policy, BytesIO(), Quarantine(BytesIO()))
    processes = processes_for(some, threads)
    blocks = _blocks_of_shard(reader, sources, found, shard, processes > 1)
    with reading_bar([(sources[index], place) for index, place in found.items()]) as bar:
        write_part(part, _shown(reader.results(blocks, processes), bar))


def sources_of_shard(sources: Sequence[Source], shard: Shard) -> list[int]:
    """Return the numbers, from 0, of the sources that overlap a shard."""
    starts, total = _starts(sources)
    ends = map(_last, starts, sources)
    reach = [(shard.of(start, total), shard.of(end, total)) for start, end in zip(starts, ends, strict=True)]
    return [index for index, (first, last) in enumerate(reach) if first <= shard.index <= last]


def _blocks_of_shard(
    reader: RecordReader, sources: Sequence[Source], places: dict[int, Path], shard: Shard, several: bool
) -> Iterator[Block]:
    starts, total = _starts(sources)
    for index, place in places.items():
        source, reached = sources[index], starts[index]
        for block in reader.blocks_of(index, source, place, several):
            # A container's estimate of consumed bytes may exceed the source; capping it keeps the shards in order.
            owner = shard.of(min(reached, _last(starts[index], source)), total)
            if owner > shard.index:
                break
            if owner == shard.index:
                yield block
            reached += block.consumed


def _starts(sources: Sequence[Source]) -> tuple[list[int], int]:
    """Return the offset of each source among the bytes of all sources, and the total number of bytes."""
    *starts, total = accumulate((source.bytes for source in sources), initial=0)
    return starts, total


def _last(start: int, source: Source) -> int:
    return start + max(source.bytes - 1, 0)


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
    sources = sources_of(read_json(job.stage))
    places = ensure_staged(sources, settings["scratch"], work, Disks.of(os.environ, work))
    kept_at = work / "quarantine" / f"{job.quarantine.parent.name}.jsonl"
    policy, limits = ReadingPolicy.of_slice(job.cfg), Limits.of_slice(job.cfg)
    with writing(job.records) as records, writing(job.quarantine) as quarantine:
        pairs = zip(sources, places, strict=True)
        facts = read_records(pairs, policy, records, quarantine, kept_at, settings["threads"], job.parts, limits)
    write_manifest(job.manifest, "read_records", [job.records, job.quarantine], facts)
    print(*summary_of(facts), sep="\n")
