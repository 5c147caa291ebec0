"""Reading of sources into canonical records, all of them or a sample."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from snaketune.data.records.quarantine import Quarantine
from snaketune.data.records.reading_policy import ReadingPolicy, RecordLimits
from snaketune.data.records.record_reader import RecordReader
from snaketune.storage.copy_targets import NamedSource

EVERYTHING = RecordLimits()


def read_records(
    sources: Iterable[tuple[NamedSource, Path]],
    policy: ReadingPolicy,
    records: IO[bytes],
    quarantine: IO[bytes],
    kept_at: str | Path,
    threads: int = 1,
    parts: Sequence[str | Path] = (),
    limits: RecordLimits = EVERYTHING,
) -> dict[str, Any]:
    """Read all sources into records and quarantine and return the facts of the manifest.

    The bytes that are written depend neither on ``threads`` nor on ``parts``.

    Args:
        sources: each source with the place to read it from, which is not used if there are ``parts``.
        policy: how lines are read.
        records: receives canonical records in input order, one JSON object per line.
        quarantine: receives the refused lines; a real file, since it is copied when the run has to stop.
        kept_at: where that copy goes.
        threads: the most processes that read.
        parts: what shards have read already, see ``reading_shard``.
        limits: how many records are kept; a sample is taken from a temporary file beside ``records``, which is as
            large as all of them.

    Raises:
        ConfigError: if a setting does not fit the data.
        DataError: if a source cannot be read or too many lines are unusable.
    """
    sources = list(sources)
    given = [source for source, _ in sources]
    if not limits.leave_out(source.options for source in given):
        return _read_all(sources, policy, records, quarantine, kept_at, threads, parts)
    from snaketune.data.split.sampling import sample  # numpy, which reading is quicker to start without

    with NamedTemporaryFile(dir=Path(records.name).parent, prefix=f".unsampled.partial-{os.getpid()}-") as file:
        everything: Any = file
        facts = _read_all(sources, policy, everything, quarantine, kept_at, threads, parts)
        file.flush()
        left_out = sample(Path(file.name), records, given, limits.max_records, limits.seed)
    return _with_sample(facts, left_out)


def _read_all(
    sources: list[tuple[NamedSource, Path]],
    policy: ReadingPolicy,
    records: IO[bytes],
    quarantine: IO[bytes],
    kept_at: str | Path,
    threads: int,
    parts: Sequence[str | Path],
) -> dict[str, Any]:
    reader = RecordReader(policy, records, Quarantine(quarantine))
    reader.read(sources, threads, parts)
    facts = reader.finish()
    reader.refuse_if_too_bad(kept_at)
    return facts


def _with_sample(facts: dict[str, Any], left_out: Sequence[int]) -> dict[str, Any]:
    """Return the facts with the records left out by sampling subtracted and counted separately."""
    entries = [
        {**entry, "records": entry["records"] - count, "not_sampled": count}
        for entry, count in zip(facts["sources"], left_out, strict=True)
    ]
    return {**facts, "sources": entries, "records": facts["records"] - sum(left_out), "not_sampled": sum(left_out)}
