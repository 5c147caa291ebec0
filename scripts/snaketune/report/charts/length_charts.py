"""How long the documents are: a histogram, and the share of documents up to each length."""

import itertools
from collections.abc import Mapping

from snaketune.report import units
from snaketune.report.charts import axes
from snaketune.report.charts.charts import Chart
from snaketune.report.charts.svg import Axis, Bar, Limit, Plot, Series
from snaketune.report.facts import Facts, get_path

HEIGHT = 150


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
