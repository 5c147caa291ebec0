"""How long the documents are: a histogram, and the share of documents up to each length."""

import itertools

import altair as alt

from snaketune.report import units
from snaketune.report.charts import Chart, chart_spec
from snaketune.report.facts import Facts, look

HEIGHT = 200
FRACTION = alt.Scale(domain=[0, 1])


def length_chart(facts: Facts) -> Chart | None:
    """Return the histogram of document lengths with the chosen max_length, or None without one."""
    bins = look(facts.rightsize, "histogram") or []
    limit = look(facts.rightsize, "max_length")
    if not bins:
        return None
    values = [{"from": b["from"], "to": b["to"], "records": b["records"]} for b in bins if b["records"]]
    bars = (
        alt.Chart(alt.Data(values=values))
        .mark_bar(color="var(--series-1)", stroke="var(--page)", strokeWidth=1, opacity=0.85, binSpacing=0)
        .encode(
            alt.X("from:Q", title="document length (tokens)", axis=alt.Axis(grid=False, tickMinStep=1, format=",d")),
            alt.X2("to:Q"),
            alt.Y("records:Q", title="documents", axis=alt.Axis(tickMinStep=1, tickCount=5, format=",d")),
            alt.Y2Datum(0),
            tooltip=[
                alt.Tooltip("from:Q", title="from (tokens)", format=",d"),
                alt.Tooltip("to:Q", title="below (tokens)", format=",d"),
                alt.Tooltip("records:Q", title="documents", format=",d"),
            ],
        )
    )
    spec = chart_spec(alt.layer(bars, *_limit_marks(limit)), HEIGHT)
    rows = tuple((f"{units.count(b['from'])} to {units.count(b['to'])}", units.count(b["records"])) for b in bins)
    caption = (
        "Lengths of the documents in tokens; each bar counts from its left edge up to, not including, its right edge."
    )
    return Chart("lengths", "Document lengths", caption, spec, ("Tokens", "Documents"), rows)


def _limit_marks(limit: int | None) -> list[alt.Chart]:
    if limit is None:
        return []
    base = alt.Chart(alt.Data(values=[{"limit": limit, "label": f"max_length {units.count(limit)}"}]))
    rule = base.mark_rule(color="var(--series-2)", strokeWidth=2, strokeDash=[5, 3]).encode(alt.X("limit:Q"))
    label = base.mark_text(align="right", dx=-6, dy=6, baseline="top", color="var(--series-2)", fontWeight=600)
    return [rule, label.encode(alt.X("limit:Q"), alt.Text("label:N"), alt.YValue(0))]


def coverage_chart(facts: Facts) -> Chart | None:
    """Return which share of the documents is shorter than a length, or None without a histogram."""
    bins = look(facts.rightsize, "histogram") or []
    total = sum(b["records"] for b in bins)
    if not total:
        return None
    shorter = itertools.accumulate((b["records"] for b in bins), initial=0)
    lengths = [bins[0]["from"], *(b["to"] for b in bins)]
    values = [{"length": at, "share": count / total} for at, count in zip(lengths, shorter, strict=True)]
    line = (
        alt.Chart(alt.Data(values=values))
        .mark_line(color="var(--series-1)", strokeWidth=1.75, point=alt.OverlayMarkDef(filled=True, size=25))
        .encode(
            alt.X("length:Q", title="length (tokens)", axis=alt.Axis(grid=False, tickMinStep=1, format=",d")),
            alt.Y(
                "share:Q", title="documents that are shorter", axis=alt.Axis(tickCount=5, format=".0%"), scale=FRACTION
            ),
            tooltip=[
                alt.Tooltip("length:Q", title="shorter than (tokens)", format=",d"),
                alt.Tooltip("share:Q", title="of the documents", format=".1%"),
            ],
        )
    )
    spec = chart_spec(alt.layer(line, *_limit_marks(look(facts.rightsize, "max_length"))), HEIGHT)
    rows = tuple((units.count(value["length"]), units.percent(value["share"])) for value in values)
    caption = "Share of the training documents that are shorter than a length: what fits without being cut."
    return Chart("coverage", "Documents up to a length", caption, spec, ("Shorter than", "Documents"), rows)
