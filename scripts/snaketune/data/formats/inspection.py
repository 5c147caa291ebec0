"""Inspection of the beginning of each source: how it is read and why, with the same code that reads all of it."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.records.quarantine import Quarantine
from snaketune.data.records.reading_policy import INSPECTED_SOURCES, ReadingPolicy
from snaketune.data.records.record_reader import RecordReader
from snaketune.storage.copy_targets import BUILTIN, NamedSource
from snaketune.storage.object_storage import is_remote

# Number of records read from each source.
RECORDS = 200


@dataclass(frozen=True, slots=True)
class InspectedSource:
    """The beginning of one source.

    Attributes:
        path: what the user calls the source.
        bytes: its size on disk.
        account: counts of the lines read, from :meth:`SourceAccount.facts`; None if the source was refused.
        records: canonical records of the beginning.
        is_all: whether that is all of the source.
        refused: lines that are not records, by reason; ``first`` is the first of them in words.
        error: why the source cannot be read, or was not inspected.
    """

    path: str
    bytes: int = 0
    account: Mapping[str, Any] = field(default_factory=dict)
    records: Sequence[dict[str, Any]] = ()
    is_all: bool = False
    refused: Mapping[str, int] = field(default_factory=dict)
    first: str = ""
    error: str = ""


def inspect_sources(
    entries: Sequence[Mapping[str, Any]], policy: ReadingPolicy, scratch: Path
) -> list[InspectedSource]:
    """Inspect each of the first 20 sources.

    Args:
        entries: the ``path`` of each source, ``options`` where it has some of its own.
        policy: how records are read.
        scratch: a folder for built-in sources.
    """
    return [_inspect(number, entry, policy, scratch) for number, entry in enumerate(entries[:INSPECTED_SOURCES])]


def _inspect(number: int, entry: Mapping[str, Any], policy: ReadingPolicy, scratch: Path) -> InspectedSource:
    path = str(entry["path"])
    try:
        if is_remote(path):
            return InspectedSource(
                path, entry["bytes"], error="is in object storage: it is read only after it has been fetched"
            )
        return read_beginning(number, entry, policy, scratch)
    except (ConfigError, DataError) as error:
        return InspectedSource(path, error=str(error))


def read_beginning(number: int, entry: Mapping[str, Any], policy: ReadingPolicy, scratch: Path) -> InspectedSource:
    """Inspect the beginning of source ``number``, which is compared with no digest: that takes all of the file.

    Raises:
        ConfigError: if a setting does not fit it.
        DataError: if it cannot be read.
    """
    path = str(entry["path"])
    place = Path(path)
    if path in BUILTIN:
        place = scratch / f"{number}.jsonl"
        place.write_bytes(b"".join(BUILTIN[path]()))
    written = io.BytesIO()
    reader = RecordReader(policy, written, Quarantine(io.BytesIO()))
    size = place.stat().st_size if place.is_file() else 0
    source = NamedSource(path, size, "", dict(entry.get("options", {})))
    account, is_all = reader.read_beginning(source, place, RECORDS)
    return InspectedSource(
        path,
        size,
        account,
        [{**orjson.loads(line), "source": number} for line in written.getvalue().splitlines()],
        is_all,
        dict(sorted(reader.quarantine.reasons.items())),
        reader.quarantine.first,
    )
