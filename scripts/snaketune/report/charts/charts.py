"""The charts of the pages, and the same values as tables for readers who cannot see them."""

from dataclasses import dataclass

from snaketune.report import units
from snaketune.report.charts import axes
from snaketune.report.charts.curves import Curve
from snaketune.report.charts.downsampling import every_so_often, thin
from snaketune.report.charts.svg import Axis, Plot, Series, Spans
from snaketune.report.report_facts import RunPageFacts

TABLE_ROWS = 25
STEP_TITLE = "optimizer step"
SMALL_HEIGHT, HEIGHT = 110, 200


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure of the page: ``plot`` is drawn, ``rows`` hold its values (some, where ``note`` says so)."""

    name: str
    title: str
    caption: str
    plot: Plot | Spans
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def learns_preferences(facts: RunPageFacts) -> bool:
    """Tell whether the loss is that of pairs of answers."""
    return bool(facts.curves["reward_margin"].points)


def curve_chart(
    curve: Curve | None, name: str, title: str, caption: str, axis: str, write: axes.Write = axes.tick_text
) -> Chart | None:
    """Return one curve of the metrics as a small chart, or None where it was not logged."""
    points = curve.points if curve else ()
    if not points:
        return None
    plot = Plot(step_axis(), Axis(axis, write, ticks=4), SMALL_HEIGHT, (Series(thin(points)),))
    rows = tuple((units.count(step), units.plain(value)) for step, value in every_so_often(points, TABLE_ROWS))
    return Chart(name, title, caption, plot, ("Step", title), rows, rows_note(len(rows), len(points)))


def step_axis() -> Axis:
    """Return the axis of optimizer steps."""
    return Axis(STEP_TITLE, whole=True)


def rows_note(rows: int, total: int) -> str:
    """Return how many of the logged steps a table shows, where it is not all of them."""
    if rows >= total:
        return ""
    return f"{units.count(rows)} of {units.count(total, 'logged step')}; metrics.jsonl has them all."


def small_charts(facts: RunPageFacts) -> list[Chart]:
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
        "By how much the chosen answer's reward exceeds the rejected one's: a reward model's score, or beta times the"
        " gain in log-probability.",
        "reward margin",
    )
    accuracy = curve_chart(
        facts.curves["reward_accuracy"],
        "reward_accuracy",
        "Reward accuracy",
        "Fraction of the training pairs whose chosen answer has the higher reward; chance is 0.5.",
        "fraction of pairs",
    )
    reward = curve_chart(facts.curves["reward"], "reward", "Reward", "Mean reward of the generated answers.", "reward")
    length = curve_chart(
        facts.curves["completion_length"],
        "completion_length",
        "Length of answers",
        "Mean tokens of the generated answers.",
        "tokens",
    )
    return [chart for chart in (rate, norm, margin, accuracy, reward, length) if chart]
