"""From sources to canonical records: every line is a record, quarantined with its reason, or blank."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

import orjson

from snaketune.common.errors import ConfigError, DataError
from snaketune.data.formats import FORMATS, Converter, Format, check_columns, detect, listed
from snaketune.data.parsing import needles, parse_line, refuse_repeated
from snaketune.data.quarantine import Quarantine, Refusal
from snaketune.data.sources import NumberedLine, reading_lines
from snaketune.data.staging import Source, progress_bar

SAMPLE_RECORDS = 64
SAMPLE_LINES = 10_000
SAMPLE_BYTES = 4 << 20
KNOWN_COLUMNS = 1000
IGNORED_SHOWN = 50


@dataclass(frozen=True, slots=True)
class ReadingPolicy:
    """How lines are read: the ``data`` section of the configuration."""

    format: str = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    system_prompt: str | None = None
    max_bad_fraction: float = 0.05


@dataclass(slots=True)
class SourceAccount:
    """What became of the lines of one source; blank lines do not count."""

    path: str
    format: str
    records: int = 0
    quarantined: int = 0
    columns: set[str] = field(default_factory=set)

    def facts(self, used: Iterable[str]) -> dict[str, Any]:
        """Return the account for the manifest; ``ignored`` are columns that no record was made of."""
        return {
            "path": self.path,
            "format": self.format,
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

    def read(self, source: Source, place: Path) -> None:
        """Read all lines of ``source``, which lies at ``place``, in bounded memory.

        Raises:
            DataError: if the file cannot be read, changed, has no lines or has no known shape.
        """
        with (
            progress_bar(source.bytes, f"reading {Path(source.path).name}") as bar,
            reading_lines(place, source.path, source.digest, bar.update) as lines,
        ):
            form, rest = self._choose_format(lines, source.path)
            account = SourceAccount(source.path, form.name)
            self._read_lines(rest, account, form)
        if not account.records + account.quarantined:
            raise _no_lines(source.path)
        self.accounts.append(account)

    def _choose_format(self, lines: Iterator[NumberedLine], path: str) -> tuple[Format, Iterator[NumberedLine]]:
        if self._policy.format != "auto":
            return FORMATS[self._policy.format], lines
        seen, sample = _sample(lines)
        if not seen:
            raise _no_lines(path)
        if found := detect(sample, self._policy.columns):
            return found, chain(seen, lines)
        raise self._unknown_shape(path, seen, sample)

    def _unknown_shape(self, path: str, seen: list[NumberedLine], sample: list[dict]) -> DataError:
        keys = dict.fromkeys(key for record in sample for key in record)
        if not sample and any(content.lstrip().startswith(b"[") for _, _, content in seen[:1]):
            return DataError(f"{path} looks like one JSON array: make it JSON lines with `jq -c '.[]'`.")
        if absent := [name for name in self._policy.columns.values() if sample and name not in keys]:
            return self._absent_column(absent[0], keys, path)
        what = f"its records have {listed(keys)}" if sample else f"its first {len(seen)} lines hold no JSON object"
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

    def _read_lines(self, lines: Iterable[NumberedLine], account: SourceAccount, form: Format) -> None:
        """Convert each line or set it aside. This loop is what reading costs."""
        index, write = len(self.accounts), self._records.write
        parse = self._line_parser(form, account)
        for number, offset, content in lines:
            try:
                record = parse(content)
            except Refusal as refusal:
                self.quarantine.add(index, account.path, number, offset, content, refusal)
                account.quarantined += 1
                continue
            canonical = {"source": index, "line": number, **record}
            write(orjson.dumps(canonical, option=orjson.OPT_APPEND_NEWLINE))
            account.records += 1

    def _line_parser(self, form: Format, account: SourceAccount) -> Callable[[bytes], dict[str, Any]]:
        """Return the function from a raw line to the content of a canonical record; it raises Refusal."""
        names = form.names(self._policy.columns)
        convert = _with_system_prompt(form.converter(names), self._policy.system_prompt)
        outer, inner = needles(names.values()), needles(form.inner)
        width, unseen = len(names), self._unseen

        def parse(content: bytes) -> dict[str, Any]:
            record = parse_line(content)
            if len(record) != width or unseen:
                self._note_columns(record, account)
            converted = convert(record)
            refuse_repeated(content, outer)
            if inner:
                refuse_repeated(content, inner, once=len(record[names[form.required[0]]]))
            return converted

        return parse

    def _note_columns(self, record: dict[str, Any], account: SourceAccount) -> None:
        """Remember which columns there are: those that are not used, and those that `data.columns` speaks of."""
        self._unseen.difference_update(record)
        if len(account.columns) < KNOWN_COLUMNS:
            account.columns.update(record)

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
) -> dict[str, Any]:
    """Read all sources into records and quarantine and return the facts of the manifest.

    Args:
        sources: each source with the place to read it from.
        policy: how lines are read.
        records: receives canonical records in input order, one JSON object per line.
        quarantine: receives the refused lines; a real file, since it is copied when the run has to stop.
        kept_at: where that copy goes.

    Raises:
        ConfigError: if a setting does not fit the data.
        DataError: if a source cannot be read or too many lines are unusable.
    """
    reader = RecordReader(policy, records, Quarantine(quarantine))
    for source, place in sources:
        reader.read(source, place)
    facts = reader.finish()
    reader.refuse_if_too_bad(kept_at)
    return facts


def _no_lines(path: str) -> DataError:
    return DataError(f"{path} has only blank lines: remove it from data.sources or fill it.")


def _sample(lines: Iterator[NumberedLine]) -> tuple[list[NumberedLine], list[dict]]:
    """Take lines until there are 64 objects, 10,000 lines or 4 MiB; return the lines and the objects on them."""
    seen: list[NumberedLine] = []
    objects: list[dict] = []
    size = 0
    for line in lines:
        seen.append(line)
        size += len(line[2])
        with suppress(Refusal):  # these lines are read again and then set aside
            objects.append(parse_line(line[2]))
        if len(objects) == SAMPLE_RECORDS or len(seen) == SAMPLE_LINES or size >= SAMPLE_BYTES:
            break
    return seen, objects


def _with_system_prompt(convert: Converter, prompt: str | None) -> Converter:
    if not prompt:
        return convert

    def with_prompt(record: dict[str, Any]) -> dict[str, Any]:
        converted = convert(record)
        messages = converted.get("messages")
        if messages and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": prompt})
        return converted

    return with_prompt


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
