"""`removed.arrow`, the table of removed records, and its application to the raw lines.

Columns: `source` and `line` of each removed record, `kept_source` and `kept_line` of its representative, `similarity`
(1.0 for the same text) and `kind` (`exact`, `near`, or another engine's name for it). The order of rows does not
matter.
"""

import os
import re
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import orjson
import pyarrow as pa

from snaketune.core.atomic import private_folder, sibling, writing
from snaketune.core.errors import DataError
from snaketune.core.manifest import write_manifest
from snaketune.data.parallel import in_processes
from snaketune.data.records.canonical_records import Range, damaged, line_ranges, lines_in, turns_of
from snaketune.data.similarity.dedupe import DedupeParts, DedupePolicy, RemovalPlan, plan_removal
from snaketune.data.tokens.left_out_records import removed_duplicates
from snaketune.settings.data_slices import DedupeSlice, StageSettings
from snaketune.storage.disks import Disks, temporary_place

EXCERPT_CHARACTERS = 200
# Temporary files for near duplicates: up to 10 bytes per byte of short records, 1.4 for records of 140 words.
BYTES_PER_BYTE = 10
BATCH_ROWS = 1 << 16
# Source and line are packed into one int64, 23 bits for the source and 40 for the line, so one search finds a record.
LINE_BITS = 40
COPIED_BYTES = 8 << 20
PAIRS_SCHEMA = pa.schema(
    {
        "source": pa.int32(),
        "line": pa.int64(),
        "kept_source": pa.int32(),
        "kept_line": pa.int64(),
        "similarity": pa.float64(),
        "kind": pa.string(),
    }
)
_TYPES = {np.dtype(kind): getattr(pa, kind)() for kind in ("int32", "int64", "float64")}
_DTYPES = {arrow: kind for kind, arrow in _TYPES.items()}
_PLACE = re.compile(rb'\{"source":(\d+),"line":(\d+),')


@dataclass(frozen=True, slots=True)
class LineIndex:
    """The origin of each record of a file, and where its line starts.

    Attributes:
        places: int64 [records], source << 40 | line, ascending.
        offsets: int64 [records + 1], in bytes; the last is the end of the file.
    """

    places: np.ndarray
    offsets: np.ndarray

    @classmethod
    def read(cls, path: str | Path, threads: int = 1) -> "LineIndex":
        """Index a file of canonical records.

        Raises:
            DataError: if a line is not a canonical record or the records are not in order.
        """
        parts = list(in_processes(index_range, [(path, span) for span in line_ranges(path)], threads))
        places, lengths = (np.frombuffer(b"".join(column), np.int64) for column in zip(*parts, strict=True))
        if (wrong := np.flatnonzero(np.diff(places, prepend=-1) <= 0)).size:
            raise damaged(path, int(wrong[0]) + 1)
        return cls(places, np.concatenate([[0], np.cumsum(lengths)]))

    def source_and_line(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the source (int32) and line (int64) of records given by index."""
        places = self.places[records]
        return (places >> LINE_BITS).astype(np.int32), places & ((1 << LINE_BITS) - 1)

    def place(self, record: int) -> dict[str, int]:
        """Return the source and line of one record."""
        place = int(self.places[record])
        return {"source": place >> LINE_BITS, "line": place & ((1 << LINE_BITS) - 1)}

    def line(self, lines: IO[bytes], record: int) -> bytes:
        """Return the raw line of one record from the indexed file."""
        start, end = self.offsets[record : record + 2].tolist()
        lines.seek(start)
        return lines.read(end - start)

    @property
    def sources(self) -> np.ndarray:
        """The source of each record, int64 [records]."""
        return self.places >> LINE_BITS

    def find(self, source: np.ndarray, line: np.ndarray, name: str | Path) -> np.ndarray:
        """Return the indices of records given by source and line.

        Raises:
            DataError: if a record does not exist; ``name`` is the file that refers to it.
        """
        places = source.astype(np.int64) << LINE_BITS | line
        index = np.searchsorted(self.places, places)
        # The appended -1 catches searches beyond the last record, whose index is out of range.
        missing = np.append(self.places, -1)[index] != places
        if missing.any():
            first = int(np.flatnonzero(missing)[0])
            raise DataError(
                f"{name}: there is no record of line {line[first]} of source {source[first]}: rebuild the table."
            )
        found: np.ndarray = index
        return found


def index_range(path: str | Path, span: Range) -> tuple[bytes, bytes]:
    """Return the places and lengths of the lines in a range, int64 each; a line that is not a record has place -1."""
    # Matching the first bytes of a line by a regular expression is several times as fast as parsing the record.
    places, lengths = array("q"), array("q")
    for line in lines_in(path, span):
        found = _PLACE.match(line)
        places.append(int(found[1]) << LINE_BITS | int(found[2]) if found else -1)
        lengths.append(len(line))
    return places.tobytes(), lengths.tobytes()


def write_removed(plan: RemovalPlan, index: LineIndex, file: IO[bytes]) -> None:
    """Write the table of removed records of a plan, in the order of the records."""
    removed = plan.removed
    with pa.ipc.new_file(file, PAIRS_SCHEMA) as writer:
        for start in range(0, len(removed), BATCH_ROWS):
            chunk = removed[start : start + BATCH_ROWS]
            columns = (*index.source_and_line(chunk), *index.source_and_line(plan.representative[chunk]))
            arrays = [_array(values) for values in (*columns, plan.similarity[chunk])]
            kinds = np.where(plan.near[chunk], "near", "exact").tolist()
            writer.write_batch(pa.record_batch([*arrays, _text_array(kinds)], schema=PAIRS_SCHEMA))


def _array(values: np.ndarray) -> pa.Array:
    """Return the same as ``pa.array``, which would import pandas (a quarter of a second)."""
    return pa.Array.from_buffers(_TYPES[values.dtype], len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _text_array(values: list[str]) -> pa.Array:
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer("".join(values).encode("ascii"))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Return the same as ``to_numpy``, which would import pandas."""
    numbers = [np.zeros(0, _DTYPES[column.type])]
    for chunk in column.chunks:
        # A chunk may be a slice: its buffer holds the whole array, and the offset counts values, not bytes.
        values = np.frombuffer(chunk.buffers()[1], numbers[0].dtype)
        numbers.append(values[chunk.offset : chunk.offset + len(chunk)])
    return np.concatenate(numbers)


def remove_records(
    removed: str | Path, path: str | Path, index: LineIndex, kept: IO[bytes], duplicates: IO[bytes]
) -> None:
    """Copy the kept lines to ``kept`` and write each pair, with the beginnings of both texts, to ``duplicates``.

    Args:
        removed: the table.
        path: canonical records.
        index: where their lines start.
        kept: receives raw lines.
        duplicates: receives JSON lines.

    Raises:
        DataError: if the table refers to unknown records, or a representative is removed itself.
    """
    with pa.memory_map(str(removed)) as source:
        table = pa.ipc.open_file(source).read_all().select(PAIRS_SCHEMA.names).cast(PAIRS_SCHEMA)
        row, representative = _checked(table, index, removed)
        similarity, kinds = _numbers(table["similarity"]), table["kind"]
        with open(path, "rb", buffering=0) as lines:
            start = 0
            # Runs of kept lines are copied as blocks of bytes: nothing is parsed or formatted again.
            for record in np.flatnonzero(row >= 0).tolist():
                _copy(lines, index.offsets[start], index.offsets[record], kept)
                at, start = row[record], record + 1
                pair = RemovedRecord(record, int(representative[at]), float(similarity[at]), kinds[at].as_py())
                duplicates.write(pair.described(lines, index))
            _copy(lines, index.offsets[start], index.offsets[-1], kept)


def _copy(lines: IO[bytes], start: int, end: int, target: IO[bytes]) -> None:
    lines.seek(start)
    while piece := lines.read(min(COPIED_BYTES, end - start)):
        target.write(piece)
        start += len(piece)


def _checked(table: pa.Table, index: LineIndex, name: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return for each record its row in the table, or -1, and for each row the index of the representative."""
    columns = [_numbers(table[column]) for column in PAIRS_SCHEMA.names[:4]]
    gone = index.find(columns[0], columns[1], name)
    representative = index.find(columns[2], columns[3], name)
    row = np.full(len(index.places), -1)
    row[gone] = np.arange(len(gone))
    # A record listed twice keeps only its last row; a representative that is itself removed would leave a record
    # without any surviving copy.
    again, chained = row[gone] != np.arange(len(gone)), row[representative] >= 0
    if (wrong := np.flatnonzero(again | chained)).size:
        place = {column: values[wrong[0]] for column, values in zip(PAIRS_SCHEMA.names, columns, strict=False)}
        problem = "is removed twice" if again[wrong[0]] else "is replaced by a record that is also removed"
        raise DataError(f"{name}: line {place['line']} of source {place['source']} {problem}: rebuild the table.")
    return row, representative


@dataclass(frozen=True, slots=True)
class RemovedRecord:
    """A removed record and its representative, by index."""

    removed: int
    kept: int
    similarity: float
    kind: str

    def described(self, lines: IO[bytes], index: LineIndex) -> bytes:
        """Return the pair as a JSON line with the places and the beginnings of both texts."""
        # The excerpts let a reader judge a removal without looking up both lines in the sources.
        entry = {
            "removed": index.place(self.removed),
            "kept": index.place(self.kept),
            "kind": self.kind,
            "similarity": round(self.similarity, 6),
            "text": record_excerpt(index.line(lines, self.removed)),
            "kept_text": record_excerpt(index.line(lines, self.kept)),
        }
        return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)


def record_excerpt(line: bytes) -> str:
    """Return the first 200 characters of a record's text, its turns joined by arrows."""
    turns = turns_of(orjson.loads(line))
    return " → ".join(" ".join(text[:EXCERPT_CHARACTERS].split()) for _, text in turns)[:EXCERPT_CHARACTERS]


@dataclass(frozen=True, slots=True)
class DedupeJob:
    """Deduplication: files and settings, by the names of the flags that ``dedupe_records.py`` documents."""

    spec: str
    code: str
    cfg: DedupeSlice
    settings: StageSettings
    records: Path
    keys: list[Path]
    sketches: list[Path]
    removed: Path
    kept: Path
    duplicates: Path
    manifest: Path


def dedupe(job: DedupeJob) -> None:
    """Plan the removals, write the plan as a table, then apply the table.

    Raises:
        DataError: if the records are damaged.
    """
    settings = job.settings
    disks, needed = Disks.of(os.environ, settings["work"]), BYTES_PER_BYTE * job.records.stat().st_size
    name = f"dedupe_records-{job.kept.parent.name}"
    policy, parts = DedupePolicy(**job.cfg["dedupe"]), DedupeParts(job.keys, job.sketches)
    place = temporary_place(settings["scratch"], settings["work"], name, disks, needed)
    with private_folder(sibling(place)) as folder:
        # The plan needs temporary files of several times the records' size, which go to the fastest disk with enough
        # space.
        plan = plan_removal(job.records, policy, folder, settings["threads"], parts)
    index = LineIndex.read(job.records, settings["threads"])
    # The plan goes through the table on disk rather than being applied from memory: the table of another engine then
    # takes the same path, with the same checks.
    with writing(job.removed) as removed:
        write_removed(plan, index, removed)
    with writing(job.kept) as kept, writing(job.duplicates) as duplicates:
        remove_records(job.removed, job.records, index, kept, duplicates)
    facts = plan.facts()
    for line in removed_duplicates(facts):
        print(line)
    write_manifest(job.manifest, "dedupe_records", [job.removed, job.kept, job.duplicates], facts)
