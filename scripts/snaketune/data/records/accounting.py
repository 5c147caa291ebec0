"""The account of each source: counts of its lines, unused fields of its records, and sentences about both."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from snaketune.data.formats.columns import names_bookkeeping
from snaketune.data.records.field_paths import column_of
from snaketune.data.records.fields import SET_ASIDE, listed
from snaketune.data.records.line_reading import BlockResult
from snaketune.data.records.reading_policy import SourceReading
from snaketune.data.records.seen import SeenColumns
from snaketune.data.sources.blocks import SourceBlocks
from snaketune.data.sources.containers import Container

IGNORED_SHOWN = 50
# Of more sources than this, those that were read alike are summed up in one sentence.
LISTED_SOURCES = 20
SHARE_SHOWN = 0.005


@dataclass(frozen=True, slots=True)
class Layout:
    """What is known of a source that a shard has read: its container, and what its members besides the records are."""

    container: Container = field(default_factory=Container)
    beside: tuple[str, ...] = ()


@dataclass(slots=True)
class LineCounts:
    """Counts over the lines of one source, without blank lines."""

    path: str
    reading: SourceReading
    records: int = 0
    quarantined: int = 0
    set_aside: int = 0
    seen: SeenColumns = field(default_factory=SeenColumns)
    blocks: SourceBlocks | Layout | None = None
    name: str = ""

    def add(self, result: BlockResult) -> None:
        """Add the counts of a block."""
        self.records += result.records
        self.quarantined += result.reasons.total()
        self.set_aside += sum(result.reasons[reason] for reason in SET_ASIDE)
        self.seen.add(result.seen)

    @property
    def lines(self) -> int:
        """The number of lines that are not blank."""
        # Every line that is not blank is one or the other, so no line disappears uncounted.
        return self.records + self.quarantined

    def facts(self) -> dict[str, Any]:
        """Return the account for the manifest.

        ``ignored`` lists unused columns and keys; ``unused`` has for each the reason, the records that have it, those
        with text in it, and its share of the characters of all text. ``container`` is present unless the source is
        JSON lines, and ``beside`` names the members of an object besides its list of records.
        """
        container = self.blocks.container.label if self.blocks else ""
        beside = self.blocks.beside if self.blocks else []
        return {
            "path": self.path,
            **({"name": self.name} if self.name else {}),
            "format": self.reading.format,
            **({"container": container} if container else {}),
            **({"beside": sorted(beside)} if beside else {}),
            "evidence": self.reading.evidence,
            "lines": self.lines,
            "records": self.records,
            "quarantined": self.quarantined,
            "set_aside": self.set_aside,
            "ignored": sorted(self.seen.unused)[:IGNORED_SHOWN],
            "unused": [self._unused(name) for name in sorted(self.seen.unused)[:IGNORED_SHOWN]],
        }

    def _unused(self, name: str) -> dict[str, Any]:
        records, with_text, _ = self.seen.unused[name]
        reason = dict(self.reading.known).get(name, "")
        share = round(self.seen.share(name), 4)
        return {"name": name, "records": records, "with_text": with_text, "share": share, "reason": reason}

    def columns(self) -> list[str]:
        """Return the used columns."""
        return [column_of(path) for _, path in self.reading.fields]

    def lost(self) -> str | None:
        """Return an unused column that has text in most lines but was absent from the first records."""
        # The reading is decided on the first records. A column that appears later would be dropped unseen.
        known = dict(self.reading.known)
        if self.reading.is_decided:
            return None
        return next(
            (
                name
                for name, (_, with_text, _) in sorted(self.seen.unused.items())
                if with_text > self.lines / 2 and name not in known and not names_bookkeeping(name)
            ),
            None,
        )


def summary_of(facts: dict[str, Any]) -> list[str]:
    """Return sentences on each source: its format and the evidence for it, counts of lines, and unused fields.

    More than 20 sources of which the same can be said, apart from numbers, share their sentences.
    """
    alike: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for entry in facts["sources"]:
        alike.setdefault(_kind(entry), []).append(entry)
    crowds = [entries for entries in alike.values() if len(entries) > LISTED_SOURCES]
    summed = {id(entries[0]): _summed(entries) for entries in crowds}
    left_out = {id(entry) for entries in crowds for entry in entries[1:]}
    entries = [summed.get(id(entry), entry) for entry in facts["sources"] if id(entry) not in left_out]
    return [sentence for entry in entries for sentence in _sentences(entry)]


def _kind(entry: dict[str, Any]) -> tuple[Any, ...]:
    """Return what two sources that share their sentences have in common; those with bad lines are apart."""
    texts = (entry.get("name"), entry["format"], entry.get("container"), entry["evidence"], *entry.get("beside", ()))
    unused = tuple((item["name"], item["reason"]) for item in entry["unused"])
    return *texts, unused, entry["quarantined"] > entry["set_aside"], entry["set_aside"] > 0


def _summed(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an account in place of those of several sources of a kind."""
    numbers = ("lines", "records", "quarantined", "set_aside", "not_sampled")
    unused = []
    for items in zip(*(entry["unused"] for entry in entries), strict=True):
        total, most = sum(item["records"] for item in items), max(item["share"] for item in items)
        unused.append({**items[0], "records": total, "share": most, "at_most": True})
    return {
        **entries[0],
        **{name: sum(entry.get(name, 0) for entry in entries) for name in numbers},
        "path": f"{entries[0]['path']} and {len(entries) - 1:,} more sources",
        "unused": unused,
    }


def _sentences(entry: dict[str, Any]) -> Iterator[str]:
    container, unit = (f" ({entry['container']})", "record") if "container" in entry else ("", "line")
    # Records that are valid but not for training (images, answers judged wrong) are in the same file as bad lines, but
    # must not count as damage.
    bad, made = entry["quarantined"] - entry["set_aside"], entry["records"] + entry.get("not_sampled", 0)
    called = f"{entry['name']}, {entry['path']}" if "name" in entry else entry["path"]
    yield (
        f"Read {called}{container} as {entry['format']}: {counted(entry['records'], 'record')},"
        f" {counted(bad, unit)} quarantined; {entry['evidence']} in {made:,} of {entry['lines']:,} records."
    )
    if "beside" in entry:
        yield f"  not used from the file: {listed(entry['beside'])}."
    if count := entry.get("not_sampled"):
        yield f"  left out by max_records: {counted(count, 'record')}."
    if entry["set_aside"]:
        yield f"  set aside as not for training: {counted(entry['set_aside'], 'record')} (listed in the quarantine)."
    if entry["unused"]:
        yield f"  not used: {'; '.join(_share(item, entry['lines']) for item in entry['unused'])}."


def _share(item: dict[str, Any], lines: int) -> str:
    most = "up to " if item.get("at_most") else ""
    text = f", {most}{100 * item['share']:.0f}% of the text" if item["share"] >= SHARE_SHOWN else ""
    reason = f", {item['reason']}" if item["reason"] else ""
    return f"{item['name']} ({item['records']:,} of {lines:,} records{text}{reason})"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
