"""Vega-Lite specifications of the charts, and the same values as tables for readers without JavaScript.

Colours are CSS variables of the page, so that charts follow light, dark and print without being drawn again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import altair as alt

from snaketune.report import units
from snaketune.report.facts import Curve, Facts, look
from snaketune.report.thinning import every_so_often, thin

TABLE_ROWS = 25
FINE_POINTS = 300
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
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


def loss_chart(facts: Facts) -> Chart | None:
    """Return training and held-out loss over the steps, or None where no loss was logged."""
    training, held_out = facts.curves["loss"], facts.curves["eval_loss"]
    series = {"training": training, "held-out": held_out}
    if not any(curve.points for curve in series.values()):
        return None
    values = [
        {"step": step, "value": value, "series": name}
        for name, curve in series.items()
        for step, value in thin(curve.points)
    ]
    names = [name for name, curve in series.items() if curve.points]
    meaning = "DPO loss of a pair of answers" if learns_preferences(facts) else "Loss in nats per trained token"
    caption = meaning + ("." if held_out.points else "; no held-out loss was measured during training.")
    rows = _loss_rows(training, held_out)
    total = len({step for curve in series.values() for step, _ in curve.points})
    axis = "loss (per pair)" if learns_preferences(facts) else "loss (nats per token)"
    spec = chart_spec(_loss_marks(values, names, axis), 260)
    return Chart(
        "loss", "Loss", caption, spec, ("Step", "Training loss", "Held-out loss"), rows, _note(len(rows), total)
    )


def learns_preferences(facts: Facts) -> bool:
    """Tell whether the loss is that of pairs of answers."""
    return bool(facts.curves["reward_margin"].points)


def _loss_marks(values: list[dict[str, Any]], names: list[str], axis: str) -> Any:
    colours = {"training": "var(--series-1)", "held-out": "var(--series-2)"}
    colour = alt.Color(
        "series:N",
        scale=alt.Scale(domain=names, range=[colours[name] for name in names]),
        legend=alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3),
    )
    base = alt.Chart(alt.Data(values=values)).encode(_step_axis(), _value_axis(axis), colour)
    training = base.transform_filter("datum.series === 'training'").mark_line(strokeWidth=line_width(len(values)))
    dots = alt.OverlayMarkDef(filled=True, size=36)
    held_out = base.transform_filter("datum.series === 'held-out'").mark_line(strokeWidth=1.75, point=dots)
    return alt.layer(training, held_out, *_reading_aid(base, "loss", alt.Tooltip("series:N", title="split")))


def curve_chart(facts: Facts, name: str, title: str, caption: str, axis: str) -> Chart | None:
    """Return one curve of the metrics as a small chart, or None where it was not logged."""
    points = facts.curves[name].points
    if not points:
        return None
    values = [{"step": step, "value": value} for step, value in thin(points)]
    base = alt.Chart(alt.Data(values=values)).encode(_step_axis(), _value_axis(axis))
    lines = base.mark_line(color="var(--series-1)", strokeWidth=line_width(len(values)))
    rows = tuple((units.count(step), units.plain(value)) for step, value in every_so_often(points, TABLE_ROWS))
    spec = chart_spec(alt.layer(lines, *_reading_aid(base, name)), 150)
    return Chart(name, title, caption, spec, ("Step", title), rows, _note(len(rows), len(points)))


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
    spec = chart_spec(alt.layer(bars, *_limit_marks(limit)), 220)
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


def line_width(points: int) -> float:
    """Return a finer line for many points, so that noise does not become a solid band."""
    return 1.75 if points <= FINE_POINTS else 0.9


def _step_axis() -> alt.X:
    return alt.X("step:Q", title=STEP_TITLE, axis=alt.Axis(grid=False, tickMinStep=1, tickCount=6, format=",d"))


def _value_axis(title: str) -> alt.Y:
    return alt.Y("value:Q", title=title, axis=alt.Axis(tickCount=5, format="~g"), scale=alt.Scale(zero=False))


def _reading_aid(base: alt.Chart, name: str, *more: alt.Tooltip) -> list[alt.Chart]:
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


def chart_spec(chart: Any, height: int) -> dict[str, Any]:
    """Return ``chart`` as a checked specification: as wide as its container, without counters of this process."""
    chart = chart.properties(width="container", height=height)
    spec = chart.to_dict()
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


def _loss_rows(training: Curve, held_out: Curve) -> tuple[tuple[str, ...], ...]:
    """Return a table of both losses: every held-out step, and training steps spread evenly."""
    of_training, of_held_out = dict(training.points), dict(held_out.points)
    steps = {step for step, _ in every_so_often(training.points, TABLE_ROWS)}
    steps |= {step for step, _ in every_so_often(held_out.points, TABLE_ROWS)}
    return tuple(
        (units.count(step), _cell(of_training.get(step)), _cell(of_held_out.get(step))) for step in sorted(steps)
    )


def _cell(value: float | None) -> str:
    return "" if value is None else units.plain(value)


def _note(rows: int, total: int) -> str:
    if rows >= total:
        return ""
    return f"{units.count(rows)} of {units.count(total, 'logged step')}; metrics.jsonl has them all."


def small_charts(facts: Facts) -> list[Chart]:
    """Return learning rate, gradient norm and the rewards of preferences over the steps, those that were logged."""
    rate = curve_chart(facts, "learning_rate", "Learning rate", "Learning rate at each logged step.", "learning rate")
    norm = curve_chart(
        facts, "grad_norm", "Gradient norm", "Norm of the gradients before clipping, as logged.", "gradient norm"
    )
    margin = curve_chart(
        facts,
        "reward_margin",
        "Reward margin",
        "By how much the chosen answer's reward exceeds the rejected one's: beta times the gain in log-probability.",
        "reward margin",
    )
    accuracy = curve_chart(
        facts,
        "reward_accuracy",
        "Reward accuracy",
        "Fraction of the training pairs whose chosen answer has the higher reward; chance is 0.5.",
        "fraction of pairs",
    )
    return [chart for chart in (rate, norm, margin, accuracy) if chart]
