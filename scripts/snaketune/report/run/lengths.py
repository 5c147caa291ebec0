"""How long the documents are, as figures and charts, and how they fill the rows."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snaketune.report import units
from snaketune.report.charts import axes
from snaketune.report.charts.charts import Chart
from snaketune.report.charts.svg import Axis, Bar, Limit, Plot, Series
from snaketune.report.facts import Facts, get_path
from snaketune.report.run.funnel import SPLITS

HEIGHT = 150

LIMIT_ORIGINS = {
    "data": "taken from the data",
    "context": "the model's context; the data are longer",
    "configuration": "set in the configuration",
}


@dataclass(frozen=True, slots=True)
class LengthFact:
    """A number beside the histogram, and a line below it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Packing:
    """How one split fills its rows; ``trained`` and ``filled`` are fractions as text."""

    split: str
    rows: str
    documents: str
    tokens: str
    trained: str
    filled: str


def length_facts(facts: Facts) -> tuple[LengthFact, ...]:
    """Return the numbers beside the histogram of the training documents; unknown ones are left out."""
    sizes = facts.rightsize
    whole = whole_documents(facts)
    found = (
        LengthFact("max_length", units.count(sizes.get("max_length"), "token"), _origin(sizes)),
        LengthFact("Longest document", units.count(sizes.get("longest"), "token")),
        LengthFact("Context of the model", units.count(sizes.get("model_context"), "token")),
        LengthFact("Documents kept whole", units.count(whole), units.share(whole, sizes.get("records"))),
        LengthFact("Texts in several rows", units.count(sizes.get("in_pieces") or None), _pieces(sizes)),
        LengthFact("Documents cut", units.count(sizes.get("truncated")), _lost(sizes, "truncated")),
        LengthFact("Documents dropped", units.count(sizes.get("dropped")), _lost(sizes, "dropped")),
    )
    return tuple(fact for fact in found if fact.value != units.UNKNOWN)


def whole_documents(facts: Facts) -> int | None:
    """Return how many training documents are in the rows uncut."""
    sizes = facts.rightsize
    records, truncated, dropped = (sizes.get(key) for key in ("records", "truncated", "dropped"))
    if records is None or truncated is None or dropped is None:
        return None
    return records - truncated - dropped - sizes.get("in_pieces", 0)


def _origin(sizes: dict[str, Any]) -> str:
    return LIMIT_ORIGINS.get(str(sizes.get("max_length_from")), "")


def _pieces(sizes: dict[str, Any]) -> str:
    return f"{units.count(sizes.get('pieces'))} pieces, nothing lost"


def _lost(sizes: dict[str, Any], key: str) -> str:
    tokens = sizes.get(f"tokens_{key}")
    return f"{units.count(tokens, 'token')} lost, {units.share(tokens, sizes.get('tokens'))}" if sizes.get(key) else ""


def packing(facts: Facts) -> tuple[Packing, ...]:
    """Return the packing of both splits."""
    splits = get_path(facts.pack, "splits") or {}
    return tuple(_packing(word, splits[name]) for name, word in SPLITS if name in splits)


def _packing(word: str, split: dict[str, Any]) -> Packing:
    return Packing(
        split=word,
        rows=units.count(split.get("rows")),
        documents=units.count(split.get("documents")),
        tokens=units.count(split.get("tokens")),
        trained=units.share(split.get("trainable_tokens"), split.get("tokens")),
        filled=units.percent(split.get("efficiency")),
    )


@dataclass(frozen=True, slots=True)
class BatchWay:
    """One way of making batches of the training documents: places that are computed, and what of it is padding."""

    way: str
    places: str
    padding: str
    share: str
    is_used: bool


def batch_ways(facts: Facts) -> tuple[BatchWay, ...]:
    """Return how much padding each way of making batches has; the account of ``rightsize`` knows four of them."""
    sizes, tokens = facts.rightsize, facts.rightsize.get("tokens_kept")
    tokens = None if tokens is None else tokens + sizes.get("tokens_repeated", 0)
    ways = (
        ("Each document padded to the model's context", "padded_tokens_at_context"),
        ("Each document padded to max_length", "padded_tokens_at_max_length"),
        ("Eight documents padded to the longest of them", "padded_tokens_dynamic_batches_of_8"),
        ("Documents packed into rows", "packed_tokens"),
    )
    used = "packed_tokens" if get_path(facts.run, "config") and _packs(facts) else "padded_tokens_at_max_length"
    return tuple(
        _way(words, sizes[name], tokens, name == used) for words, name in ways if sizes.get(name) and tokens is not None
    )


def _packs(facts: Facts) -> bool:
    entry = facts.run["config"].get("tokens.packing") or {}
    return entry.get("value") is not False and get_path(facts.pack, "packing") is not False


def _way(words: str, places: int, tokens: int, is_used: bool) -> BatchWay:
    padding = places - tokens
    return BatchWay(words, units.count(places), units.count(padding), units.share(padding, places), is_used)


def length_chart(facts: Facts) -> Chart | None:
    """Return the histogram of document lengths with the chosen max_length, or None without one."""
    bins = get_path(facts.rightsize, "histogram") or []
    limit = get_path(facts.rightsize, "max_length")
    if not bins:
        return None
    bars = tuple(Bar(b["from"], b["to"], b["records"], _words(b)) for b in bins if b["records"])
    upward = Axis("documents", whole=True, low=0)
    plot = Plot(Axis("document length (tokens)", whole=True), upward, HEIGHT, bars=bars, limit=_limit(limit))
    rows = tuple((f"{units.count(b['from'])} to {units.count(b['to'])}", units.count(b["records"])) for b in bins)
    caption = (
        "Lengths of the documents in tokens; each bar counts from its left edge up to, not including, its right edge."
    )
    return Chart("lengths", "Document lengths", caption, plot, ("Tokens", "Documents"), rows)


def _words(one: Mapping[str, int]) -> str:
    return (
        f"{units.count(one['from'])} to {units.count(one['to'] - 1)} tokens: {units.count(one['records'], 'document')}"
    )


def _limit(limit: int | None, is_below: bool = False) -> Limit | None:
    return None if limit is None else Limit(limit, f"max_length {units.count(limit)}", is_below)


def coverage_chart(facts: Facts) -> Chart | None:
    """Return which share of the documents is shorter than a length, or None without a histogram."""
    bins = get_path(facts.rightsize, "histogram") or []
    total = sum(b["records"] for b in bins)
    if not total:
        return None
    shorter = itertools.accumulate((b["records"] for b in bins), initial=0)
    lengths = [bins[0]["from"], *(b["to"] for b in bins)]
    shares = [(at, count / total) for at, count in zip(lengths, shorter, strict=True)]
    upward = Axis("documents that are shorter", axes.per_cent, low=0, high=1)
    limit = _limit(get_path(facts.rightsize, "max_length"), is_below=True)
    plot = Plot(Axis("length (tokens)", whole=True), upward, HEIGHT, (Series(shares, dots=True),), limit=limit)
    rows = tuple((units.count(at), units.percent(share)) for at, share in shares)
    caption = "Share of the training documents that are shorter than a length: what fits without being cut."
    return Chart("coverage", "Documents up to a length", caption, plot, ("Shorter than", "Documents"), rows)
