"""Charts of training and held-out loss over steps, tokens, time or cost."""

from collections.abc import Callable
from dataclasses import dataclass

from snaketune.report import units
from snaketune.report.charts import axes, svg
from snaketune.report.charts.charts import HEIGHT, STEP_TITLE, TABLE_ROWS, Chart, learns_preferences, rows_note
from snaketune.report.charts.curves import Curve
from snaketune.report.charts.downsampling import Point, every_so_often, thin
from snaketune.report.compare.comparison import price_per_hour
from snaketune.report.kept_weights import kept_step, what_was_kept
from snaketune.report.report_facts import RunPageFacts

CURVE_COLOURS = {"training": 1, "held-out": 2}
SECONDS_OF_AN_HOUR = 3600.0
BUTTONS = {"loss": "Steps", "loss-tokens": "Tokens", "loss-time": "Time", "loss-dollars": "Dollars"}


@dataclass(frozen=True, slots=True)
class LossAxis:
    """A horizontal axis of the loss: ``place`` returns the position of a logged step on it, None if unknown."""

    name: str
    title: str
    column: str
    place: Callable[[int], float | None]
    write: axes.Write = axes.tick_text


def loss_chart(facts: RunPageFacts) -> Chart | None:
    """Return training and held-out loss over the steps, or None where no loss was logged."""
    return _chart(facts, LossAxis("loss", STEP_TITLE, "", float))


def loss_over_tokens(facts: RunPageFacts) -> Chart | None:
    """Return the losses over the tokens trained so far, or None where they were not counted."""

    def tokens(step: int) -> float | None:
        known = facts.progress.get(step)
        return None if known is None else known.tokens

    return _chart(facts, LossAxis("loss-tokens", "real tokens trained so far", "Tokens", tokens, axes.thousands))


def loss_over_time(facts: RunPageFacts) -> Chart | None:
    """Return the losses over the seconds, minutes or hours of training, as measured."""
    last = max((known.seconds or 0.0 for known in facts.progress.values()), default=0.0)
    size, name = next(
        (s, n)
        for s, n in ((SECONDS_OF_AN_HOUR, "hours"), (60.0, "minutes"), (1.0, "seconds"))
        if last >= 2 * s or s == 1
    )
    return _chart(
        facts,
        LossAxis("loss-time", f"{name} of training (measured)", name.capitalize(), _seconds(facts, size)),
    )


def loss_over_dollars(facts: RunPageFacts) -> Chart | None:
    """Return the losses over the cost of computing, or None if no price or no time is known."""
    price = dollars_per_hour(facts)
    if not price:
        return None
    place = _seconds(facts, SECONDS_OF_AN_HOUR / price)
    return _chart(
        facts, LossAxis("loss-dollars", "US dollars of computing (measured time)", "Dollars", place, axes.money)
    )


def dollars_per_hour(facts: RunPageFacts) -> float | None:
    """Return what an hour on the machine that trained costs, or None where the plan knows no price for it."""
    return price_per_hour(facts.plan)


def _seconds(facts: RunPageFacts, size: float) -> Callable[[int], float | None]:
    def place(step: int) -> float | None:
        known = facts.progress.get(step)
        return None if known is None or known.seconds is None else known.seconds / size

    return place


def _chart(facts: RunPageFacts, axis: LossAxis) -> Chart | None:
    series = {"training": facts.curves["loss"], "held-out": facts.curves["eval_loss"]}
    lines = [_line(name, curve, axis) for name, curve in series.items()]
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    rows = _rows(series["training"], series["held-out"], axis)
    total = len({step for curve in series.values() for step, _ in curve.points})
    across = svg.Axis(axis.title, axis.write, whole=axis.title == STEP_TITLE)
    upward = svg.Axis("loss (per pair)" if learns_preferences(facts) else "loss (nats per token)")
    kept = kept_step(facts)
    at = None if kept is None else axis.place(kept)
    limit = None if at is None else svg.Limit(at, "kept")
    plot = svg.Plot(across, upward, HEIGHT, tuple(lines), limit=limit)
    header = ("Step", *([axis.column] if axis.column else []), "Training loss", "Held-out loss")
    return Chart(axis.name, "Loss", _caption(facts), plot, header, rows, rows_note(len(rows), total))


def _line(name: str, curve: Curve, axis: LossAxis) -> svg.Series:
    points = [(round(place, 9), value) for step, value in thin(curve.points) if (place := axis.place(step)) is not None]
    return svg.Series(points, name, CURVE_COLOURS[name], dots=name == "held-out")


def _caption(facts: RunPageFacts) -> str:
    meaning = "Loss of a pair of answers" if learns_preferences(facts) else "Loss in nats per trained token"
    is_held_out = bool(facts.curves["eval_loss"].points)
    text = meaning + ("." if is_held_out else "; no held-out loss was measured during training.")
    return " ".join(filter(None, (text, what_was_kept(facts))))


def _rows(training: Curve, held_out: Curve, axis: LossAxis) -> tuple[tuple[str, ...], ...]:
    """Return a table of both losses: every held-out step, and training steps spread evenly."""
    of_training, of_held_out = dict(training.points), dict(held_out.points)
    chosen: list[Point] = [*every_so_often(training.points, TABLE_ROWS), *every_so_often(held_out.points, TABLE_ROWS)]
    return tuple(
        (
            units.count(step),
            *([_place(axis.place(step))] if axis.column else []),
            _cell(of_training.get(step)),
            _cell(of_held_out.get(step)),
        )
        for step in sorted({step for step, _ in chosen})
    )


def _place(value: float | None) -> str:
    return "" if value is None else units.count(value) if isinstance(value, int) else units.significant(value)


def _cell(value: float | None) -> str:
    return "" if value is None else units.plain(value)


def can_be_logarithmic(facts: RunPageFacts) -> bool:
    """Tell whether all losses are above 0, so that a logarithmic axis can show them."""
    curves = (facts.curves["loss"], facts.curves["eval_loss"])
    return all(value > 0 for curve in curves for _, value in curve.points)
