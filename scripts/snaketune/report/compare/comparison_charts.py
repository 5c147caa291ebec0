"""Overlaid curves of several runs, over tokens, time and cost."""

from collections.abc import Sequence

from snaketune.report import units
from snaketune.report.charts import axes
from snaketune.report.charts.charts import HEIGHT, TABLE_ROWS, Chart
from snaketune.report.charts.downsampling import every_so_often, thin
from snaketune.report.charts.svg import COLOURS, Axis, Plot, Series
from snaketune.report.compare.comparison import CurvePoint, RunFacts, curve, labels

AXES = {
    "tokens": ("tokens seen (padding not counted)", 1.0, axes.thousands),
    "seconds": ("minutes of training (measured)", 60.0, axes.tick_text),
    "dollars": ("US dollars of computing (measured time)", 1.0, axes.money),
}


def comparison_charts(runs: Sequence[RunFacts]) -> list[Chart]:
    """Return the overlaid curves: training loss over tokens, time and money, held-out loss over tokens."""
    wanted = (
        ("loss", "tokens", "Training loss over tokens"),
        ("loss", "seconds", "Training loss over time"),
        ("loss", "dollars", "Training loss over money"),
        ("eval_loss", "tokens", "Held-out loss over tokens"),
    )
    return [chart for key, axis, title in wanted if (chart := overlay(runs, key, axis, title))]


def overlay(runs: Sequence[RunFacts], key: str, axis: str, title: str) -> Chart | None:
    """Return one measure of every run over ``axis`` (tokens, seconds or dollars), or None where no run knows it."""
    known = {name: curve(run, key) for name, run in zip(labels(runs), runs, strict=True)}
    curves = {name: [point for point in found if getattr(point, axis) is not None] for name, found in known.items()}
    if not any(curves.values()):
        return None
    words, size, write = AXES[axis]
    lines = tuple(
        Series(
            [
                (getattr(points[index], axis) / size, value)
                for index, value in thin([(index, point.value) for index, point in enumerate(points)])
            ],
            name,
            number % COLOURS + 1,
            dots=key == "eval_loss",
        )
        for number, (name, points) in enumerate(curves.items())
        if points
    )
    plot = Plot(Axis(words, write), Axis("nats per token"), HEIGHT, lines)
    rows, total = _rows(curves, axis, size)
    note = "" if len(rows) >= total else f"{units.count(len(rows))} of {units.count(total, 'logged value')}."
    caption = f"Loss in nats per trained token; the runs' curves over {words}."
    return Chart(f"{key}-{axis}", title, caption, plot, ("Run", words, "Loss"), rows, note)


def _rows(curves: dict[str, list[CurvePoint]], axis: str, size: float) -> tuple[tuple[tuple[str, ...], ...], int]:
    rows = []
    for name, points in curves.items():
        for index, value in every_so_often([(i, point.value) for i, point in enumerate(points)], TABLE_ROWS // 2):
            rows.append((name, units.plain(round(getattr(points[index], axis) / size, 4)), units.plain(value)))
    return tuple(rows), sum(map(len, curves.values()))
