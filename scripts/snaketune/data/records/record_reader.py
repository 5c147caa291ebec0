"""A reader of sources, one after the other: every line becomes a record, is quarantined with a reason, or is blank."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import IO, Any

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.formats.choosing import decide
from snaketune.data.formats.configuration_lines import ignore_line
from snaketune.data.formats.first_records import TO_UTF8, no_objects
from snaketune.data.formats.formats import check_columns
from snaketune.data.formats.refusals import absent_column
from snaketune.data.parallel import BYTES_PER_PROCESS, ordered_results
from snaketune.data.records.accounting import Layout, LineCounts, counted
from snaketune.data.records.field_paths import column_of
from snaketune.data.records.fields import listed
from snaketune.data.records.line_reading import BlockResult, LineReader
from snaketune.data.records.parsing import parse_line
from snaketune.data.records.quarantine import Quarantine, RefusedLine
from snaketune.data.records.reading_policy import ReadingPolicy, SourceReading
from snaketune.data.records.shard_parts import Begun, Ended, ReadSources
from snaketune.data.shards import read_parts
from snaketune.data.sources.blocks import Block, SourceBlocks, is_compressed_name
from snaketune.data.sources.line_chunks import blocks_of_chunks
from snaketune.data.sources.pieces import Chunk
from snaketune.storage.copy_targets import NamedSource
from snaketune.storage.staging import progress_bar

SAMPLE_RECORDS = 64
SAMPLE_LINES = 10_000
SAMPLE_BYTES = 4 << 20
# Fields that every record of their format has.
REQUIRED_FIELDS = frozenset(
    ("messages", "conversations", "prompt", "completion", "instruction", "output", "text", "chosen", "rejected")
)
# Compressed text expands by about this factor.
EXPANSION = 4


class RecordReader:
    """Reads sources one after the other into the same two files."""

    def __init__(self, policy: ReadingPolicy, records: IO[bytes], quarantine: Quarantine):
        """Check the policy.

        Raises:
            ConfigError: if ``data.columns`` names a column that the format does not have.
        """
        check_columns(policy.format, policy.columns)
        self._policy = policy
        self._records = records
        self._named = dict(policy.columns)
        self._found: set[str] = set()
        self.quarantine = quarantine
        self.accounts: dict[int, LineCounts] = {}

    def read(self, sources: list[tuple[NamedSource, Path]], threads: int, parts: Sequence[str | Path] = ()) -> None:
        """Read all lines of all sources, each from its path, in bounded memory.

        Args:
            sources: each source with the path to read.
            threads: the most processes that read.
            parts: what shards have read already.

        Raises:
            DataError: if a file cannot be read, changed, has no lines or has no known shape.
        """
        given = [source for source, _ in sources]
        if parts:
            read = self._read_by_shards(given, parts)
        else:
            processes = processes_for(given, threads)
            read = self.results(self.blocks(sources, processes > 1), processes)
        with reading_bar(sources) as bar:
            for result in read:
                self._add(result)
                bar.update(result.consumed)
        for account in self.accounts.values():
            if not account.records + account.quarantined:
                raise _no_lines(account.path)

    def read_beginning(self, source: NamedSource, place: Path, records: int) -> tuple[dict[str, Any], bool]:
        """Read a source, the only one of this reader, until there are ``records`` records or 4 MiB are read.

        Returns:
            The account of what was read, and whether that is all of the source.

        Raises:
            ConfigError, DataError: if it cannot be read, has no known shape, or lacks a column of ``data.columns``. If
                the source continues, optional columns may still come later.
        """
        blocks, size, is_all = self.blocks([(source, place)], False), 0, True
        for block in blocks:
            self._add(LineReader(self._policy)(block))
            size += block.size
            if self.records >= records or size >= SAMPLE_BYTES:
                is_all = next(blocks, None) is None
                break
        if is_all:
            self.finish()
        elif lacking := {column_of(self._named[name]) for name in REQUIRED_FIELDS & self._named.keys()} - self._found:
            self._refuse_unseen(min(lacking))
        return self.accounts[0].facts(), is_all

    def results(self, blocks: Iterable[Block], processes: int) -> Iterator[BlockResult]:
        """Yield the result of each block."""
        return ordered_results(LineReader, (self._policy,), blocks, processes)

    def blocks(self, sources: list[tuple[NamedSource, Path]], several: bool) -> Iterator[Block]:
        """Yield the blocks of all sources, each with its reading."""
        return chain.from_iterable(self.blocks_of(at, *source, several) for at, source in enumerate(sources))

    def blocks_of(
        self, index: int, source: NamedSource, place: Path, several: bool, chunks: Sequence[Chunk] | None = None
    ) -> Iterator[Block]:
        """Yield the blocks of a source, or of some of its chunks, with its reading.

        For plain files, other processes read the bytes themselves. The reading is always decided on the beginning.
        """
        found = SourceBlocks(index, source.path, place, source.digest)
        policy = self._policy_of(source)
        reading, blocks = self._choose(iter(found), source.path, policy)
        self._open_account(index, source, reading, found)
        if chunks is not None:
            blocks = blocks_of_chunks(index, source.path, place, chunks)
        for block in blocks:
            known = replace(block, reading=reading)
            yield known.by_reference() if several and block.is_plain else known

    def _policy_of(self, source: NamedSource) -> ReadingPolicy:
        policy = self._policy.of_source(source.options)
        check_columns(policy.format, policy.columns)
        self._named |= policy.columns
        return policy

    def _open_account(
        self, index: int, source: NamedSource, reading: SourceReading, layout: SourceBlocks | Layout
    ) -> None:
        name = source.options.get("name", "")
        self.accounts[index] = LineCounts(source.path, reading, blocks=layout, name=name)

    def _read_by_shards(self, sources: Sequence[NamedSource], parts: Sequence[str | Path]) -> Iterator[BlockResult]:
        """Yield what shards have read; no source is opened again."""
        read = ReadSources(sources)
        for result in read_parts(parts):
            if isinstance(result, Begun):
                read.begin(result)
                self._policy_of(sources[result.source])
                if result.source not in self.accounts:
                    self._open_account(result.source, sources[result.source], result.reading, Layout())
            elif isinstance(result, Ended):
                self.accounts[result.source].blocks = result.layout
            else:
                yield result
        read.finish()

    def _add(self, result: BlockResult) -> None:
        self._records.write(result.written)
        self.quarantine.add(result.refused, result.reasons, result.first)
        self._found |= result.seen.found
        self.accounts[result.source].add(result)

    def _choose(
        self, blocks: Iterator[Block], path: str, policy: ReadingPolicy
    ) -> tuple[SourceReading, Iterator[Block]]:
        seen, lines, sample = _sample(blocks)
        if not lines:
            raise _no_lines(path)
        if not sample and policy.format == "auto":
            raise no_objects(path, seen)
        places, records = [place for place, _ in sample], [record for _, record in sample]
        return decide(path, records, places, policy), chain(seen, blocks)

    def finish(self) -> dict[str, Any]:
        """Return the facts of the manifest.

        Raises:
            ConfigError: if a system prompt is set and there is nothing to put it before.
            DataError: if a column of ``data.columns`` was in no record.
        """
        if unseen := {*map(column_of, self._named.values()), *map(column_of, self._policy.ignore)} - self._found:
            self._refuse_unseen(min(unseen))
        for account in self.accounts.values():
            if name := account.lost():
                raise DataError(
                    f"{account.path}: {name!r} has text in most records but is not used, since the first records lack "
                    f"it: write {ignore_line([name])} to leave it out, or name it in data.columns."
                )
        if self._policy.system_prompt and all(account.reading.format == "text" for account in self.accounts.values()):
            raise ConfigError("data.system_prompt: plain text has no system message: set it to null.")
        return {
            "sources": [account.facts() for account in self.accounts.values()],
            "records": self.records,
            "quarantined": self.quarantine.total,
            "reasons": dict(sorted(self.quarantine.reasons.items())),
        }

    def _refuse_unseen(self, name: str) -> None:
        found = sorted(
            {name for account in self.accounts.values() for name in (*account.seen.unused, *account.columns())}
        )
        columns, where = self._named, counted(len(self.accounts), "source")
        if name in map(column_of, columns.values()):
            path = next(path for path in columns.values() if column_of(path) == name)
            raise absent_column(path, columns, found, where)
        raise ConfigError(f"data.ignore: no record of {where} has {name!r}; found: {listed(found)}: correct the name.")

    @property
    def records(self) -> int:
        """The number of records read so far."""
        return sum(account.records for account in self.accounts.values())

    def refuse_if_too_bad(self, kept_at: str | Path) -> None:
        """Stop when too many lines were quarantined, after keeping a copy of them at ``kept_at``.

        Otherwise the copy of an earlier failure is removed.

        Raises:
            DataError: with the counts per reason, the first case and the place of the copy.
        """
        aside = sum(account.set_aside for account in self.accounts.values())
        bad = self.quarantine.total - aside
        lines = bad + self.records
        if aside and not lines:
            raise DataError(
                f"No record is left: all {counted(aside, 'line')} are set aside ({self.quarantine.counts()}); the first"
                f" is {self.quarantine.first}: a text model cannot learn from them: give other sources."
            )
        if self.records and bad <= self._policy.max_bad_fraction * lines:
            Path(kept_at).unlink(missing_ok=True)
            return
        self.quarantine.keep_copy(kept_at)
        raise DataError(
            f"data.max_bad_fraction: {bad} of {counted(lines, 'line')} cannot be used ({self.quarantine.counts()}),"
            f" {100 * bad / lines:.3g} % where {100 * self._policy.max_bad_fraction:.3g} % is allowed; the first is"
            f" {self.quarantine.first}; all are in {kept_at}: {self._cure(bad)}correct them, data.format or "
            "data.columns"
            + (f", or write data.max_bad_fraction: {-(-100 * bad // lines) / 100:g}." if self.records else ".")
        )

    def _cure(self, bad: int) -> str:
        """Return what to try first if most bad lines have a common cause."""
        if 2 * self.quarantine.reasons.get("invalid_utf8", 0) > bad:
            return f"convert the file, {TO_UTF8}, or "
        return ""


def reading_bar(sources: Sequence[tuple[NamedSource, Path]]) -> Any:
    """Return a progress bar over the bytes of the sources."""
    label = Path(sources[0][0].path).name if len(sources) == 1 else f"{len(sources)} sources"
    return progress_bar(sum(source.bytes for source, _ in sources), f"reading {label}")


def processes_for(sources: Iterable[NamedSource], threads: int) -> int:
    """Return the number of processes worth starting to read these sources, at most ``threads``."""
    size = sum(source.bytes * (EXPANSION if is_compressed_name(source.path) else 1) for source in sources)
    return max(1, min(threads, size // BYTES_PER_PROCESS))


def _no_lines(path: str) -> DataError:
    return DataError(f"{path} has no record: remove it from data.sources or fill it.")


def _sample(blocks: Iterator[Block]) -> tuple[list[Block], int, list[tuple[int, dict[str, Any]]]]:
    """Take blocks until there are 64 objects, 10,000 lines or 4 MiB; return them, the number of lines, the objects."""
    seen: list[Block] = []
    lines = 0
    objects: list[tuple[int, dict[str, Any]]] = []
    for block in blocks:
        seen.append(block)
        for number, content in enumerate(block.items(), block.line):
            if len(objects) == SAMPLE_RECORDS or lines == SAMPLE_LINES:
                return seen, lines, objects
            if type(content) is dict:
                lines += 1
                objects.append((number, content))
            elif type(content) is bytes and content and not content.isspace():
                lines += 1
                with suppress(RefusedLine):  # these lines are read again and then set aside
                    objects.append((number, parse_line(content)))
        if sum(block.size for block in seen) >= SAMPLE_BYTES:
            break
    return seen, lines, objects
