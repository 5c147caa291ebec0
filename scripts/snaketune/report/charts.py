"""Vega-Lite specifications of the charts, and the same values as tables for readers without JavaScript.

Colours are CSS variables of the page, so that charts follow light, dark and print without being drawn again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from snaketune.report import units
from snaketune.report.curves import Curve
from snaketune.report.facts import Facts
from snaketune.report.thinning import every_so_often, thin

TABLE_ROWS = 25
FINE_POINTS = 300
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# Stands for data that are put into the finished specification.
POINTS = alt.NamedData(name="points")
STEP_TITLE = "optimizer step"


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure of the page: ``spec`` is Vega-Lite, ``rows`` hold its values (some, where ``note`` says so)."""

    name: str
    title: str
    caption: str
    spec: Mapping[str, Any]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def learns_preferences(facts: Facts) -> bool:
    """Tell whether the loss is that of pairs of answers."""
    return bool(facts.curves["reward_margin"].points)


def curve_chart(curve: Curve | None, name: str, title: str, caption: str, axis: str, ticks: str = "~g") -> Chart | None:
    """Return one curve of the metrics as a small chart, or None where it was not logged."""
    points = curve.points if curve else ()
    if not points:
        return None
    values = [{"step": step, "value": value} for step, value in thin(points)]
    base = alt.Chart(POINTS).encode(step_axis(), value_axis(axis, ticks))
    lines = base.mark_line(color="var(--series-1)", strokeWidth=line_width(len(values)))
    rows = tuple((units.count(step), units.plain(value)) for step, value in every_so_often(points, TABLE_ROWS))
    spec = chart_spec(alt.layer(lines, *reading_aid(base, name)), 150, values)
    return Chart(name, title, caption, spec, ("Step", title), rows, rows_note(len(rows), len(points)))


def line_width(points: int) -> float:
    """Return a finer line for many points, so that noise does not become a solid band."""
    return 1.75 if points <= FINE_POINTS else 0.9


def step_axis() -> alt.X:
    """Return the axis of optimizer steps."""
    return alt.X("step:Q", title=STEP_TITLE, axis=alt.Axis(grid=False, tickMinStep=1, tickCount=6, format=",d"))


def value_axis(title: str, ticks: str = "~g") -> alt.Y:
    """Return the axis of a measured value, which need not begin at 0."""
    return alt.Y("value:Q", title=title, axis=alt.Axis(tickCount=5, format=ticks), scale=alt.Scale(zero=False))


def reading_aid(base: alt.Chart, name: str, *more: alt.Tooltip) -> list[alt.Chart]:
    """Return the marks that tell a point's values when the pointer is near it.

    They are wide and invisible. Vega-Lite's own ``nearest`` loses text fields of the tooltip (seen in 6.4).
    """
    pointed = alt.selection_point(name=f"near_{name}", on="pointerover", clear="pointerout", empty=False)
    tooltip = [
        *more,
        alt.Tooltip("step:Q", title="step", format=",d"),
        alt.Tooltip("value:Q", title=name.replace("_", " "), format=".4~g"),
    ]
    wide = base.mark_point(filled=True, size=400, color="var(--series-1)").encode(
        opacity=alt.when(pointed).then(alt.value(0.25)).otherwise(alt.value(0)), tooltip=tooltip
    )
    return [wide.add_params(pointed)]


def chart_spec(chart: Any, height: int, values: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Return ``chart`` as a checked specification: as wide as its container, without counters of this process.

    Args:
        chart: what is drawn.
        height: in pixels.
        values: the data of a chart over ``POINTS``, which are put in unchecked: checking thousands takes seconds.
    """
    chart = chart.properties(width="container", height=height)
    spec = chart.to_dict()
    if values is not None:
        assert spec["data"] == {"name": POINTS.name}
        spec["data"] = {"values": values}
    spec["config"] = _config()
    return spec


def _config() -> dict[str, Any]:
    text = {"labelColor": "var(--muted)", "titleColor": "var(--muted)", "labelFontSize": 12, "titleFontSize": 12}
    lines = {"gridColor": "var(--rule)", "domainColor": "var(--rule-strong)", "tickColor": "var(--rule-strong)"}
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            **text,
            **lines,
            "titleFontWeight": 400,
            "titlePadding": 10,
            "labelPadding": 6,
            "labelOverlap": True,
            "labelSeparation": 8,
        },
        "legend": {"labelColor": "var(--ink)", "labelFontSize": 13},
        "text": {"font": FONT, "fontSize": 12},
    }


def rows_note(rows: int, total: int) -> str:
    """Return how many of the logged steps a table shows, where it is not all of them."""
    if rows >= total:
        return ""
    return f"{units.count(rows)} of {units.count(total, 'logged step')}; metrics.jsonl has them all."


def small_charts(facts: Facts) -> list[Chart]:
    """Return learning rate, gradient norm and the rewards of preferences over the steps, those that were logged."""
    rate = curve_chart(
        facts.curves["learning_rate"],
        "learning_rate",
        "Learning rate",
        "Learning rate at each logged step.",
        "learning rate",
    )
    norm = curve_chart(
        facts.curves["grad_norm"],
        "grad_norm",
        "Gradient norm",
        "Norm of the gradients before clipping, as logged.",
        "gradient norm",
    )
    margin = curve_chart(
        facts.curves["reward_margin"],
        "reward_margin",
        "Reward margin",
        "By how much the chosen answer's reward exceeds the rejected one's: beta times the gain in log-probability.",
        "reward margin",
    )
    accuracy = curve_chart(
        facts.curves["reward_accuracy"],
        "reward_accuracy",
        "Reward accuracy",
        "Fraction of the training pairs whose chosen answer has the higher reward; chance is 0.5.",
        "fraction of pairs",
    )
    return [chart for chart in (rate, norm, margin, accuracy) if chart]
