"""What a part says of the sources that its shard has read, and whether all parts have read each source once."""

from collections.abc import Sequence
from dataclasses import dataclass

from snaketune.data.records.accounting import Layout
from snaketune.data.records.reading_policy import SourceReading
from snaketune.data.shards import Shard, unfit_parts
from snaketune.storage.copy_targets import NamedSource


@dataclass(frozen=True, slots=True)
class Span:
    """The chunks of a source that one shard reads: from ``first`` to ``stop``, exclusive, of ``count``.

    A source without chunks counts as one, which is all of it.
    """

    first: int
    stop: int
    count: int


@dataclass(frozen=True, slots=True)
class Begun:
    """Comes before the results of a source: how it is read, and which chunks of it."""

    source: int
    reading: SourceReading
    span: Span


@dataclass(frozen=True, slots=True)
class Ended:
    """Comes after the results of a source."""

    source: int
    layout: Layout


def spans_of(sources: Sequence[NamedSource], shard: Shard) -> dict[int, Span]:
    """Return what a shard reads: for each of its sources, by number from 0, the chunks.

    A shard owns what begins in its share of the bytes of all sources.
    """
    total, reached, found = sum(source.bytes for source in sources), 0, {}
    for index, source in enumerate(sources):
        offsets = [chunk.offset for chunk in source.chunks] or [0]
        own = [number for number, offset in enumerate(offsets) if shard.holds(reached + offset, total)]
        if own:
            found[index] = Span(own[0], own[-1] + 1, len(offsets))
        reached += source.bytes
    return found


class ReadSources:
    """Follows the parts of all shards.

    Args:
        sources: all sources.
    """

    def __init__(self, sources: Sequence[NamedSource]):
        self._counts = [max(1, len(source.chunks)) for source in sources]
        self._source = self._reached = 0

    def begin(self, part: Begun) -> None:
        """Note what a shard has read.

        Raises:
            DataError: if that does not follow what was read before.
        """
        span = part.span
        expected = (self._source, self._reached, self._counts[self._source] if self._source < len(self._counts) else 0)
        if (part.source, span.first, span.count) != expected:
            raise unfit_parts()
        self._reached = span.stop
        if span.stop == span.count:
            self._source, self._reached = self._source + 1, 0

    def finish(self) -> None:
        """Check that every source was read to its end.

        Raises:
            DataError: if something is missing.
        """
        if self._source < len(self._counts):
            raise unfit_parts()
