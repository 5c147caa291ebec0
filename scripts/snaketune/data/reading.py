"""From sources to canonical records: every line is a record, quarantined with its reason, or blank."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from snaketune.common.errors import ConfigError, DataError
from snaketune.data.blocks import Block, SourceBlocks, is_packed
from snaketune.data.conversion import KNOWN_COLUMNS
from snaketune.data.fields import listed
from snaketune.data.formats import FORMATS, PAIRS, Format, check_columns, detect
from snaketune.data.line_reading import BlockResult, LineReader
from snaketune.data.parallel import BYTES_PER_PROCESS, ordered_results
from snaketune.data.parsing import parse_line
from snaketune.data.policy import Limits, Reading, ReadingPolicy
from snaketune.data.quarantine import Quarantine, Refusal
from snaketune.data.sampling import is_sampled, sample
from snaketune.data.shards import gathered, read_parts
from snaketune.data.staging import Source, progress_bar

SAMPLE_RECORDS = 64
SAMPLE_LINES = 10_000
SAMPLE_BYTES = 4 << 20
IGNORED_SHOWN = 50
EVERYTHING = Limits()
# Compressed text is about this much larger.
EXPANSION = 4


@dataclass(slots=True)
class SourceAccount:
    """What became of the lines of one source; blank lines do not count."""

    path: str
    format: str
    records: int = 0
    quarantined: int = 0
    columns: set[str] = field(default_factory=set)
    blocks: SourceBlocks | None = None

    def add(self, result: BlockResult) -> None:
        """Count the lines of a block."""
        self.records += result.records
        self.quarantined += result.reasons.total()
        if len(self.columns) < KNOWN_COLUMNS:
            self.columns.update(result.columns)

    def facts(self, used: Iterable[str]) -> dict[str, Any]:
        """Return the account for the manifest; ``ignored`` are columns that no record was made of.

        What is no lines of JSON has a ``container``, and ``beside`` names what an object has beside its list.
        """
        container = self.blocks.container.label if self.blocks else ""
        beside = self.blocks.beside if self.blocks else []
        return {
            "path": self.path,
            "format": self.format,
            **({"container": container} if container else {}),
            **({"beside": sorted(beside)} if beside else {}),
            "lines": self.records + self.quarantined,
            "records": self.records,
            "quarantined": self.quarantined,
            "ignored": sorted(self.columns.difference(used))[:IGNORED_SHOWN],
        }


class RecordReader:
    """Reads one source after the other into the same two files."""

    def __init__(self, policy: ReadingPolicy, records: IO[bytes], quarantine: Quarantine):
        """Check the policy.

        Raises:
            ConfigError: if ``data.columns`` names a column that the format does not have.
        """
        check_columns(policy.format, policy.columns)
        self._policy = policy
        self._records = records
        self._unseen = set(policy.columns.values())
        self.quarantine = quarantine
        self.accounts: list[SourceAccount] = []

    def read(self, sources: list[tuple[Source, Path]], threads: int, parts: Sequence[str | Path] = ()) -> None:
        """Read all lines of all sources, each with the place where it lies, in bounded memory.

        Args:
            sources: each source with its place.
            threads: the most processes that read.
            parts: what shards have read already.

        Raises:
            DataError: if a file cannot be read, changed, has no lines or has no known shape.
        """
        processes = 1 if parts else processes_for([source for source, _ in sources], threads)
        blocks = self.blocks(sources, processes > 1)
        read = gathered(blocks, read_parts(parts)) if parts else self.results(blocks, processes)
        with reading_bar(sources) as bar:
            for result in read:
                self._add(result)
                bar.update(result.consumed)
        for account in self.accounts:
            if not account.records + account.quarantined:
                raise _no_lines(account.path)

    def results(self, blocks: Iterable[Block], processes: int) -> Iterator[BlockResult]:
        """Yield what becomes of each block."""
        return ordered_results(LineReader, (self._policy,), blocks, processes)

    def blocks(self, sources: list[tuple[Source, Path]], several: bool) -> Iterator[Block]:
        """Yield the blocks of all sources, each with its reading."""
        return chain.from_iterable(self._blocks(*source, several) for source in sources)

    def _blocks(self, source: Source, place: Path, several: bool) -> Iterator[Block]:
        """Yield the blocks of a source with its reading; other processes read those of plain files themselves."""
        index = len(self.accounts)
        found = SourceBlocks(index, source.path, place, source.digest)
        form, blocks = self._choose_format(iter(found), source.path)
        reading = Reading(form.name)
        self.accounts.append(SourceAccount(source.path, form.name, blocks=found))
        for block in blocks:
            known = replace(block, reading=reading)
            yield known.by_reference() if several and block.is_plain else known

    def _add(self, result: BlockResult) -> None:
        self._records.write(result.written)
        self.quarantine.add(result.refused, result.reasons, result.first)
        self._unseen.difference_update(result.columns)
        self.accounts[result.source].add(result)

    def _choose_format(self, blocks: Iterator[Block], path: str) -> tuple[Format, Iterator[Block]]:
        if self._policy.format != "auto":
            return FORMATS[self._policy.format], blocks
        seen, lines, sample = _sample(blocks)
        if not lines:
            raise _no_lines(path)
        if found := detect(sample, self._policy.columns, self._policy.pairs):
            return found, chain(seen, blocks)
        if self._policy.pairs and sample:
            raise self._no_pairs(path, sample)
        raise self._unknown_shape(path, lines, sample)

    def _no_pairs(self, path: str, sample: list[dict]) -> ConfigError:
        names = FORMATS[PAIRS].names(self._policy.columns)
        return ConfigError(
            f"train.method: dpo learns from pairs, and no record of {path} has {names['chosen']!r} and"
            f" {names['rejected']!r}; found: {listed(dict.fromkeys(key for record in sample for key in record))}: name"
            " the columns in data.columns, give other sources, or set train.method to sft."
        )

    def _unknown_shape(self, path: str, lines: list[Any], sample: list[dict]) -> DataError:
        keys = dict.fromkeys(key for record in sample for key in record)
        if absent := [name for name in self._policy.columns.values() if sample and name not in keys]:
            return self._absent_column(absent[0], keys, path)
        what = f"its records have {listed(keys)}" if sample else f"its first {len(lines)} lines hold no JSON object"
        return DataError(
            f"{path} has no known shape, {what}: set data.format to one of {', '.join(FORMATS)}, or name its columns in"
            " data.columns, for example {prompt: question, completion: answer}."
        )

    def _absent_column(self, name: str, found: Iterable[str], place: str) -> DataError:
        canonical = next(key for key, value in self._policy.columns.items() if value == name)
        return DataError(
            f"data.columns: no record of {place} has {name!r}, which is to be the {canonical}; found: {listed(found)}:"
            " correct the name."
        )

    def finish(self) -> dict[str, Any]:
        """Return the facts of the manifest.

        Raises:
            ConfigError: if a system prompt is set and there is nothing to put it before.
            DataError: if a column of ``data.columns`` was in no record.
        """
        if self._unseen:
            found = sorted(set().union(*(account.columns for account in self.accounts)))
            raise self._absent_column(min(self._unseen), found, _count(len(self.accounts), "source"))
        if self._policy.system_prompt and all(account.format == "text" for account in self.accounts):
            raise ConfigError("data.system_prompt: plain text has no system message: set it to null.")
        return {
            "sources": [account.facts(self._used(account)) for account in self.accounts],
            "records": self.records,
            "quarantined": self.quarantine.total,
            "reasons": dict(sorted(self.quarantine.reasons.items())),
        }

    def _used(self, account: SourceAccount) -> Iterable[str]:
        return FORMATS[account.format].names(self._policy.columns).values()

    @property
    def records(self) -> int:
        """The number of records made so far."""
        return sum(account.records for account in self.accounts)

    def refuse_if_too_bad(self, kept_at: str | Path) -> None:
        """Stop when too many lines were quarantined, after keeping a copy of them at ``kept_at``.

        Otherwise the copy of an earlier failure is removed.

        Raises:
            DataError: with the counts per reason, the first case and the place of the copy.
        """
        bad = self.quarantine.total
        lines = bad + self.records
        if self.records and bad <= self._policy.max_bad_fraction * lines:
            Path(kept_at).unlink(missing_ok=True)
            return
        self.quarantine.keep_copy(kept_at)
        raise DataError(
            f"data.max_bad_fraction: {bad} of {_count(lines, 'line')} cannot be used ({self.quarantine.counts()}),"
            f" {100 * bad / lines:.3g} % where {100 * self._policy.max_bad_fraction:.3g} % is allowed; the first is"
            f" {self.quarantine.first}; all are in {kept_at}: mend them, correct data.format or data.columns, or raise"
            " the limit."
        )


def read_records(
    sources: Iterable[tuple[Source, Path]],
    policy: ReadingPolicy,
    records: IO[bytes],
    quarantine: IO[bytes],
    kept_at: str | Path,
    threads: int = 1,
    parts: Sequence[str | Path] = (),
    limits: Limits = EVERYTHING,
) -> dict[str, Any]:
    """Read all sources into records and quarantine and return the facts of the manifest.

    The bytes that are written depend neither on ``threads`` nor on ``parts``.

    Args:
        sources: each source with the place to read it from.
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
    if not is_sampled(given, limits.max_records):
        return _read_all(sources, policy, records, quarantine, kept_at, threads, parts)
    with NamedTemporaryFile(dir=Path(records.name).parent, prefix=f".unsampled.partial-{os.getpid()}-") as file:
        everything: Any = file
        facts = _read_all(sources, policy, everything, quarantine, kept_at, threads, parts)
        file.flush()
        left_out = sample(Path(file.name), records, given, limits.max_records, limits.seed)
    return _with_sample(facts, left_out)


def _read_all(
    sources: list[tuple[Source, Path]],
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
    """Return the facts with what the sample left out taken from the records and counted."""
    entries = [
        {**entry, "records": entry["records"] - count, "not_sampled": count}
        for entry, count in zip(facts["sources"], left_out, strict=True)
    ]
    return {**facts, "sources": entries, "records": facts["records"] - sum(left_out), "not_sampled": sum(left_out)}


def reading_bar(sources: Sequence[tuple[Source, Path]]) -> Any:
    """Return a progress bar over the bytes of the sources."""
    label = Path(sources[0][0].path).name if len(sources) == 1 else f"{len(sources)} sources"
    return progress_bar(sum(source.bytes for source, _ in sources), f"reading {label}")


def summary_of(facts: dict[str, Any]) -> list[str]:
    """Return one sentence per source: what it was read as and how many lines became records."""
    return [_summary(entry) for entry in facts["sources"]]


def _summary(entry: dict[str, Any]) -> str:
    container = f" ({entry['container']})" if "container" in entry else ""
    beside = f" Not used of it: {listed(entry['beside'])}." if "beside" in entry else ""
    unit = "line" if not container else "record"
    if count := entry.get("not_sampled"):
        beside = f" Left out by max_records: {_count(count, 'record')}.{beside}"
    return (
        f"Read {entry['path']}{container} as {entry['format']}: {_count(entry['records'], 'record')},"
        f" {_count(entry['quarantined'], unit)} quarantined.{beside}"
    )


def processes_for(sources: Iterable[Source], threads: int) -> int:
    """Return how many processes are worth starting to read these sources, at most ``threads``."""
    size = sum(source.bytes * (EXPANSION if is_packed(source.path) else 1) for source in sources)
    return max(1, min(threads, size // BYTES_PER_PROCESS))


def _no_lines(path: str) -> DataError:
    return DataError(f"{path} has only blank lines: remove it from data.sources or fill it.")


def _sample(blocks: Iterator[Block]) -> tuple[list[Block], list[Any], list[dict]]:
    """Take blocks until there are 64 objects, 10,000 lines or 4 MiB; return them, the lines and the objects."""
    seen: list[Block] = []
    lines: list[Any] = []
    objects: list[dict] = []
    for block in blocks:
        seen.append(block)
        for content in block.items():
            if len(objects) == SAMPLE_RECORDS or len(lines) == SAMPLE_LINES:
                return seen, lines, objects
            if type(content) is dict:
                lines.append(content)
                objects.append(content)
            elif type(content) is bytes and content and not content.isspace():
                lines.append(content)
                with suppress(Refusal):  # these lines are read again and then set aside
                    objects.append(parse_line(content))
        if sum(block.size for block in seen) >= SAMPLE_BYTES:
            break
    return seen, lines, objects


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
