"""Reading one shard of the sources."""

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from snaketune.data.line_reading import BlockResult
from snaketune.data.policy import ReadingPolicy
from snaketune.data.quarantine import Quarantine
from snaketune.data.reading import RecordReader, processes_for, reading_bar
from snaketune.data.shards import Shard, write_part
from snaketune.data.staging import Source


def read_shard(
    sources: Iterable[tuple[Source, Path]], policy: ReadingPolicy, shard: Shard, part: str | Path, threads: int = 1
) -> None:
    """Convert the lines of one shard of the sources and write the results to the file ``part``.

    Every shard passes over all bytes, which finds the number of its first line and costs little beside converting.

    Raises:
        ConfigError: if a setting does not fit the data.
        DataError: if a source cannot be read.
    """
    sources = list(sources)
    reader = RecordReader(policy, BytesIO(), Quarantine(BytesIO()))
    processes = processes_for([source for source, _ in sources], threads)
    total = sum(source.bytes for source, _ in sources)
    blocks = shard.share(reader.blocks(sources, processes > 1), lambda block: block.consumed, total)
    with reading_bar(sources) as bar:
        write_part(part, _shown(reader.results(blocks, processes), bar))


def _shown(results: Iterable[BlockResult], bar: Any) -> Iterator[BlockResult]:
    for result in results:
        bar.update(result.consumed)
        yield result
