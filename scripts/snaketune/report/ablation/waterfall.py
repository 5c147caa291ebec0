"""Waterfall from the slow to the fast end: each factor as measured alone, and their overlap."""

from collections.abc import Sequence
from dataclasses import dataclass

from snaketune.facts.ablation_facts import AblationFacts, OutsideEffect, TrainingEffect
from snaketune.report import units
from snaketune.report.charts.charts import Chart
from snaketune.report.charts.svg import Axis, SpanBar, Spans
from snaketune.report.text import visible

SLOW, FAST_WAY, OVERLAP = "Slow, as in the guides", "Fast, measured", "Overlap of the parts"


@dataclass(frozen=True, slots=True)
class EpochBar:
    """A bar from ``start`` to ``end`` seconds of an epoch; ``kind`` decides its colour."""

    label: str
    start: float
    end: float
    kind: str


def bars(facts: AblationFacts) -> list[EpochBar]:
    """Return the bars: the slow end, the single factors one after the other, their overlap, and the fast end.

    Each factor divides the time that the ones before it left by its own speed-up, so that they end at the product of
    the single speed-ups; the overlap is the distance from there to the measured fast end.
    """
    whole = facts["combined"]
    if "failed" in whole:
        return []
    slow, now = whole["seconds_slow"], whole["seconds_slow"]
    found = [EpochBar(SLOW, 0.0, slow, "whole")]
    for row in alone(facts):
        # By the ratio, not the seconds: savings of single factors can add up to more than the whole epoch.
        then = now * (slow - row["seconds_saved"]) / slow
        title = visible(facts["titles"].get(row["factor"], row["factor"]))
        found.append(EpochBar(title, now, then, "saved" if then <= now else "lost"))
        now = then
    found.append(EpochBar(OVERLAP, now, whole["seconds_fast"], "overlap"))
    return [*found, EpochBar(FAST_WAY, 0.0, whole["seconds_fast"], "whole")]


def alone(facts: AblationFacts) -> list[TrainingEffect | OutsideEffect]:
    """Return the effects of single factors from the slow end that could be measured."""
    return [row for row in facts["effects"] if row["where"] == "baseline" and "failed" not in row]


def scale_of(seconds: float) -> tuple[float, str]:
    """Return the unit of an axis up to ``seconds``: how many seconds it has, and its name."""
    scales = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
    return next((size, name) for size, name in scales if seconds >= 2 * size or size == 1)


def waterfall(facts: AblationFacts) -> Chart | None:
    """Return the chart with its values as a table, or None where one of the ends could not be measured."""
    found = bars(facts)
    if not found:
        return None
    size, name = scale_of(found[0].end)
    caption = (
        "Time of one epoch from its start. Each coloured bar is one factor, measured alone; the grey bar is how much "
        "they overlap or reinforce each other."
    )
    rows = tuple(_row(bar, size, name) for bar in found)
    header = ("Step", "From", "To", "Saved")
    return Chart("waterfall", "One epoch, step by step", caption, _plot(found, size, name), header, rows)


def _row(bar: EpochBar, size: float, name: str) -> tuple[str, ...]:
    if bar.kind == "whole":
        return bar.label, "", _text(bar.end, size, name), ""
    saved = units.signed((bar.start - bar.end) / size).removeprefix("+")
    return bar.label, _text(bar.start, size, name), _text(bar.end, size, name), f"{saved} {name}"


def _text(seconds: float, size: float, name: str) -> str:
    return f"{units.significant(seconds / size)} {name}"


def _plot(found: Sequence[EpochBar], size: float, name: str) -> Spans:
    spans = tuple(
        SpanBar(
            bar.label,
            min(bar.start, bar.end) / size,
            max(bar.start, bar.end) / size,
            bar.kind,
            _row(bar, size, name)[2 if bar.kind == "whole" else 3],
        )
        for bar in found
    )
    return Spans(Axis(f"one epoch ({name})"), spans)
