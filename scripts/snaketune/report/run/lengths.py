"""Document lengths as figures and charts, and the filling of rows."""

import itertools
from dataclasses import dataclass
from typing import Literal

from snaketune.facts.data_facts import LengthBin, PackedSplit, Rightsize
from snaketune.report import units
from snaketune.report.charts import axes
from snaketune.report.charts.charts import Chart
from snaketune.report.charts.svg import Axis, HistogramBar, Limit, Plot, Series
from snaketune.report.report_facts import RunPageFacts
from snaketune.report.run.funnel import SPLIT_LABELS, packed_split

HISTOGRAM_HEIGHT = 150

LIMIT_ORIGINS = {
    "data": "taken from the data",
    "context": "the model's context; the data are longer",
    "configuration": "set in the configuration",
}


@dataclass(frozen=True, slots=True)
class LengthFact:
    """A number next to the histogram, and a line below it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ShownPacking:
    """Filling of the rows of one split; ``trained`` and ``filled`` are fractions as text."""

    split: str
    rows: str
    documents: str
    tokens: str
    trained: str
    filled: str


def length_facts(facts: RunPageFacts) -> tuple[LengthFact, ...]:
    """Return the numbers next to the histogram of the training documents; unknown ones are left out."""
    sizes = facts.rightsize
    whole = whole_documents(facts)
    found = (
        LengthFact("max_length", units.count(sizes["max_length"], "token"), _origin(sizes)),
        LengthFact("Longest document", units.count(sizes["longest"], "token")),
        LengthFact("Context of the model", units.count(sizes["model_context"], "token")),
        LengthFact("Documents kept whole", units.count(whole), units.share(whole, sizes["records"])),
        LengthFact("Texts in several rows", units.count(sizes["in_pieces"] or None), _pieces(sizes)),
        LengthFact("Documents cut", units.count(sizes["truncated"]), _lost(sizes, "truncated")),
        LengthFact("Documents dropped", units.count(sizes["dropped"]), _lost(sizes, "dropped")),
    )
    return tuple(fact for fact in found if fact.value != units.NOT_MEASURED)


def whole_documents(facts: RunPageFacts) -> int | None:
    """Return how many training documents are in the rows uncut."""
    sizes = facts.rightsize
    records, truncated, dropped = sizes["records"], sizes["truncated"], sizes["dropped"]
    if records is None or truncated is None or dropped is None:
        return None
    return records - truncated - dropped - (sizes["in_pieces"] or 0)


def _origin(sizes: Rightsize) -> str:
    return LIMIT_ORIGINS.get(str(sizes["max_length_from"]), "")


def _pieces(sizes: Rightsize) -> str:
    return f"{units.count(sizes['pieces'])} pieces, nothing lost"


def _lost(sizes: Rightsize, key: Literal["truncated", "dropped"]) -> str:
    tokens = sizes["tokens_truncated"] if key == "truncated" else sizes["tokens_dropped"]
    return f"{units.count(tokens, 'token')} lost, {units.share(tokens, sizes['tokens'])}" if sizes[key] else ""


def packing(facts: RunPageFacts) -> tuple[ShownPacking, ...]:
    """Return the packing of both splits."""
    found = ((word, packed_split(facts, name)) for name, word in SPLIT_LABELS)
    return tuple(_packing(word, split) for word, split in found if split)


def _packing(word: str, split: PackedSplit) -> ShownPacking:
    return ShownPacking(
        split=word,
        rows=units.count(split["rows"]),
        documents=units.count(split["documents"]),
        tokens=units.count(split["tokens"]),
        trained=units.share(split["trainable_tokens"], split["tokens"]),
        filled=units.percent(split["efficiency"]),
    )


@dataclass(frozen=True, slots=True)
class BatchWay:
    """One way of batching the training documents: positions computed, and how many of them are padding."""

    way: str
    places: str
    padding: str
    share: str
    is_used: bool


def batch_ways(facts: RunPageFacts) -> tuple[BatchWay, ...]:
    """Return how much padding each way of batching has; ``rightsize`` counts four of them."""
    sizes = facts.rightsize
    if sizes["tokens_kept"] is None:
        return ()
    tokens, packs = sizes["tokens_kept"] + (sizes["tokens_repeated"] or 0), _packs(facts)
    ways = (
        ("Each document padded to the model's context", sizes["padded_tokens_at_context"], False),
        ("Each document padded to max_length", sizes["padded_tokens_at_max_length"], not packs),
        ("Eight documents padded to the longest of them", sizes["padded_tokens_dynamic_batches_of_8"], False),
        ("Documents packed into rows", sizes["packed_tokens"], packs),
    )
    return tuple(_way(words, places, tokens, is_used) for words, places, is_used in ways if places)


def _packs(facts: RunPageFacts) -> bool:
    """Tell whether rows are packed; a run without its configuration may pad."""
    entry = facts.run["config"].get("tokens.packing")
    is_wanted = entry is None or entry["value"] is not False
    return bool(facts.run["config"]) and is_wanted and facts.pack["packing"] is not False


def _way(words: str, places: int, tokens: int, is_used: bool) -> BatchWay:
    padding = places - tokens
    return BatchWay(words, units.count(places), units.count(padding), units.share(padding, places), is_used)


def length_chart(facts: RunPageFacts) -> Chart | None:
    """Return the histogram of document lengths with the chosen max_length, or None without one."""
    bins = facts.rightsize["histogram"]
    limit = facts.rightsize["max_length"]
    if not bins:
        return None
    bars = tuple(HistogramBar(b["from"], b["to"], b["records"], _words(b)) for b in bins if b["records"])
    upward = Axis("documents", whole=True, low=0)
    plot = Plot(Axis("document length (tokens)", whole=True), upward, HISTOGRAM_HEIGHT, bars=bars, limit=_limit(limit))
    rows = tuple((f"{units.count(b['from'])} to {units.count(b['to'])}", units.count(b["records"])) for b in bins)
    caption = (
        "Lengths of the documents in tokens; each bar counts from its left edge up to, not including, its right edge."
    )
    return Chart("lengths", "Document lengths", caption, plot, ("Tokens", "Documents"), rows)


def _words(one: LengthBin) -> str:
    return (
        f"{units.count(one['from'])} to {units.count(one['to'] - 1)} tokens: {units.count(one['records'], 'document')}"
    )


def _limit(limit: int | None, is_below: bool = False) -> Limit | None:
    return None if limit is None else Limit(limit, f"max_length {units.count(limit)}", is_below)


def coverage_chart(facts: RunPageFacts) -> Chart | None:
    """Return the cumulative distribution of document lengths, or None without a histogram."""
    bins = facts.rightsize["histogram"]
    total = sum(b["records"] for b in bins)
    if not total:
        return None
    shorter = itertools.accumulate((b["records"] for b in bins), initial=0)
    lengths = [bins[0]["from"], *(b["to"] for b in bins)]
    shares = [(at, count / total) for at, count in zip(lengths, shorter, strict=True)]
    upward = Axis("documents that are shorter", axes.per_cent, low=0, high=1)
    limit = _limit(facts.rightsize["max_length"], is_below=True)
    plot = Plot(
        Axis("length (tokens)", whole=True), upward, HISTOGRAM_HEIGHT, (Series(shares, dots=True),), limit=limit
    )
    rows = tuple((units.count(at), units.percent(share)) for at, share in shares)
    caption = "Share of the training documents that are shorter than a length: what fits without being cut."
    return Chart("coverage", "Documents up to a length", caption, plot, ("Shorter than", "Documents"), rows)
