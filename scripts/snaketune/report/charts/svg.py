"""Charts as SVG without a library in the page: the same bytes everywhere, as wide as the page allows.

A chart is a column of labels beside a plot area. Horizontal positions in the area are percentages of its width, so that
it fits any screen without redrawing while text keeps its size. Lines are in data units, which a transform stretches
over the area, so that the script of the tooltips can read values from them. Colours are classes of the page's style
sheet: charts follow light mode, dark mode and print.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from snaketune.report.charts import axes
from snaketune.report.charts.axes import Scale, Write

TOP, BOTTOM = 24, 46
"""Pixels above the field for the title of its values, and below for ticks and the title across."""
CHARACTER = 6.6
"""Width of a digit at 12 pixels, rounded up."""
FINE_POINTS = 300
COLOURS = 8
BAR_ROW_HEIGHT = 42
"""Pixels of a bar of several below each other, with its words."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line: ``points`` are (across, value); ``colour`` is the number of a colour of the style, from 1."""

    points: Sequence[tuple[float, float]]
    name: str = ""
    colour: int = 1
    dots: bool = False


@dataclass(frozen=True, slots=True)
class HistogramBar:
    """A bar of a histogram, from ``low`` to ``high`` horizontally."""

    low: float
    high: float
    value: float
    words: str


@dataclass(frozen=True, slots=True)
class Limit:
    """A dashed line at a horizontal position, with its name at the upper end, or the lower one if lines are above."""

    at: float
    words: str
    is_below: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """Title and tick format of an axis; ``low`` and ``high`` extend it beyond its values."""

    title: str
    write: Write = axes.tick_text
    whole: bool = False
    low: float | None = None
    high: float | None = None
    ticks: int = 5


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot: lines or bars over one axis, ``height`` pixels high."""

    across: Axis
    upward: Axis
    height: int
    series: tuple[Series, ...] = ()
    bars: tuple[HistogramBar, ...] = ()
    limit: Limit | None = None


@dataclass(frozen=True, slots=True)
class SpanBar:
    """A bar from ``low`` to ``high``, below its name and a value; ``kind`` is a class of the style."""

    name: str
    low: float
    high: float
    kind: str
    words: str


@dataclass(frozen=True, slots=True)
class Spans:
    """Bars below each other over one axis that begins at 0."""

    across: Axis
    spans: tuple[SpanBar, ...]


def drawn(plot: Plot | Spans, logarithmic: bool = False) -> str:
    """Return a plot as markup; with ``logarithmic`` its values, which have to be above 0, are on such an axis."""
    if isinstance(plot, Spans):
        return _drawn_spans(plot)
    across, upward = _scales(plot, logarithmic)
    field = _Field(across, upward, plot.height)
    labels = [plot.upward.write(tick, upward.step) for tick in upward.ticks]
    width = round(10 + CHARACTER * max(map(len, labels), default=1))
    parts = [
        *_grid(field),
        *_across(field, plot.across),
        *(part for bar in plot.bars for part in _bar(field, bar)),
        *_lines(field, plot.series),
        *(part for one in plot.series for part in _dots(field, one)),
        *(_limit(field, plot.limit) if plot.limit else ()),
    ]
    height = plot.height + TOP + BOTTOM
    column = "".join(
        f'<text x="{width - 8}" y="{_number(field.down(tick) + 4)}" text-anchor="end">{escape(label)}</text>'
        for tick, label in zip(upward.ticks, labels, strict=True)
    )
    title = f'<text class="axis" y="12">{escape(plot.upward.title)}</text>'
    return (
        f'{_legend(plot.series)}<div class="drawing"><svg class="scale" width="{width}" height="{height}">{title}'
        f'{column}</svg><svg class="field" width="100%" height="{height}" data-x="{escape(plot.across.title)}"'
        f' data-scale="{"log" if logarithmic else "linear"}">{"".join(parts)}</svg></div>'
    )


class _Field:
    """Positions in the plot area: percentages horizontally, pixels vertically."""

    def __init__(self, across: Scale, upward: Scale, height: int) -> None:
        self.across, self.upward, self.height = across, upward, height

    def right(self, value: float) -> str:
        return f"{_number(100 * self.across.place(value), 3)}%"

    def down(self, value: float) -> float:
        return TOP + self.height * (1 - self.upward.place(value))


def _scales(plot: Plot, logarithmic: bool) -> tuple[Scale, Scale]:
    places = [x for one in plot.series for x, _ in one.points]
    places += [x for bar in plot.bars for x in (bar.low, bar.high)] + ([plot.limit.at] if plot.limit else [])
    values = [value for one in plot.series for _, value in one.points] + [bar.value for bar in plot.bars]
    low, high = _range(values, plot.upward)
    upward = (
        axes.logarithmic(low, high) if logarithmic else axes.linear(low, high, plot.upward.ticks, plot.upward.whole)
    )
    across = axes.linear(*_range(places, plot.across), plot.across.ticks, plot.across.whole, nice=False)
    return across, upward


def _range(values: Iterable[float], axis: Axis) -> tuple[float, float]:
    known = [*values, *(bound for bound in (axis.low, axis.high) if bound is not None)]
    return min(known), max(known)


def _grid(field: _Field) -> list[str]:
    return [
        f'<line class="{"base" if tick == field.upward.low else "grid"}" x2="100%" y1="{y}" y2="{y}"/>'
        for tick in field.upward.ticks
        for y in [_number(field.down(tick))]
    ]


def _across(field: _Field, axis: Axis) -> list[str]:
    """Return the horizontal labels; the first and the last one are kept inside the drawing."""
    bottom, found = TOP + field.height, []
    for tick in field.across.ticks:
        place = field.across.place(tick)
        anchor = "start" if place < 0.03 else "end" if place > 0.97 else "middle"
        label = escape(axis.write(tick, field.across.step))
        found.append(f'<text x="{field.right(tick)}" y="{bottom + 18}" text-anchor="{anchor}">{label}</text>')
        found.append(f'<line class="tick" x1="{field.right(tick)}" x2="{field.right(tick)}" y1="{bottom}"')
        found[-1] += f' y2="{bottom + 4}"/>'
    title = f'<text class="axis" x="50%" y="{bottom + 40}" text-anchor="middle">{escape(axis.title)}</text>'
    return [*found, title]


def _lines(field: _Field, series: Sequence[Series]) -> list[str]:
    """Return the lines, in the units of their data: a transform brings them into a square of 100 by 100."""
    if not series:
        return []
    across, upward = field.across, field.upward
    low, high = upward.inner(upward.low), upward.inner(upward.high)
    # (a, b, c, d, e, f) of SVG: x' = a x + e, y' = d y + f; d is negative because y points down. Nine digits, because
    # steps and tokens are large numbers of which the offset e takes away most.
    right, up = 100 / (across.high - across.low), 100 / (high - low)
    matrix = " ".join(f"{one:.9g}" for one in (right, 0, 0, -up, -across.low * right, high * up))
    width = "fine" if max(len(one.points) for one in series) > FINE_POINTS else "line"
    lines = [
        f'<polyline class="{width} c{one.colour}" data-name="{escape(one.name)}" transform="matrix({matrix})"'
        f' points="{_points(one, upward)}"/>'
        for one in series
    ]
    frame = f'y="{TOP}" width="100%" height="{field.height}" viewBox="0 0 100 100" preserveAspectRatio="none"'
    return [f"<svg {frame}>{''.join(lines)}</svg>"]


def _points(series: Series, upward: Scale) -> str:
    return " ".join(f"{x:.7g},{upward.inner(value):.5g}" for x, value in series.points)


def _dots(field: _Field, series: Series) -> list[str]:
    """Return a dot at each point of a series that has dots, or that has too few points for a line."""
    if not series.dots and len(series.points) > 1:
        return []
    return [
        f'<circle class="dot c{series.colour}" cx="{field.right(x)}" cy="{_number(field.down(value))}" r="3"/>'
        for x, value in series.points
    ]


def _bar(field: _Field, bar: HistogramBar) -> list[str]:
    left, right = (100 * field.across.place(one) for one in (bar.low, bar.high))
    top, bottom = field.down(bar.value), field.down(max(0.0, field.upward.low))
    return [
        f'<rect class="bar c1" x="{_number(left, 3)}%" y="{_number(top)}" width="{_number(right - left, 3)}%"'
        f' height="{_number(bottom - top)}"><title>{escape(bar.words)}</title></rect>'
    ]


def _limit(field: _Field, limit: Limit) -> list[str]:
    at, is_right = field.right(limit.at), field.across.place(limit.at) > 0.5
    side = 'text-anchor="end" dx="-6"' if is_right else 'dx="6"'
    down = field.height - 8 if limit.is_below else 12
    return [
        f'<line class="limit c2" x1="{at}" x2="{at}" y1="{TOP}" y2="{TOP + field.height}"/>',
        f'<text class="named c2" x="{at}" y="{TOP + down}" {side}>{escape(limit.words)}</text>',
    ]


def _drawn_spans(plot: Spans) -> str:
    low, high = _range((bound for one in plot.spans for bound in (one.low, one.high, 0.0)), plot.across)
    across = axes.linear(low, high, plot.across.ticks, nice=False)
    field = _Field(across, axes.linear(0, 1, 1), BAR_ROW_HEIGHT * len(plot.spans))
    bottom = TOP + field.height
    places = map(field.right, across.ticks)
    ticks = [f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>' for x in places]
    bars = [part for number, one in enumerate(plot.spans) for part in _span(field, one, TOP + BAR_ROW_HEIGHT * number)]
    parts = "".join([*ticks, *bars, *_across(field, plot.across)])
    return f'<div class="drawing"><svg class="field" width="100%" height="{bottom + BOTTOM}">{parts}</svg></div>'


def _span(field: _Field, one: SpanBar, top: int) -> list[str]:
    left, right = (100 * field.across.place(bound) for bound in (one.low, one.high))
    return [
        f'<text class="named" y="{top + 14}">{escape(one.name)}</text>',
        f'<text x="100%" y="{top + 14}" text-anchor="end">{escape(one.words)}</text>',
        f'<rect class="span {one.kind}" x="{_number(left, 3)}%" y="{top + 20}" width="{_number(right - left, 3)}%"'
        ' height="12" rx="1"/>',
    ]


def _legend(series: Sequence[Series]) -> str:
    named = [one for one in series if one.name]
    if not named:
        return ""
    keys = "".join(f'<span class="key c{one.colour}">{escape(one.name)}</span>' for one in named)
    return f'<p class="legend">{keys}</p>'


def _number(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")
