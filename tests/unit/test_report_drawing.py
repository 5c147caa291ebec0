"""Charts as SVG: where ticks are, and that what is drawn is the data."""

import re
from xml.etree import ElementTree

import pytest

from snaketune.report.charts.axes import linear, logarithmic, money, per_cent, thousands, tick_text
from snaketune.report.charts.svg import Axis, HistogramBar, Limit, Plot, Series, SpanBar, Spans, drawn


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.013, 1.47, (0, 0.5, 1.0, 1.5)),
        (-1, 1, (-1, -0.5, 0, 0.5, 1)),
        (2e-5, 2e-4, (0, 5e-5, 1e-4, 1.5e-4, 2e-4)),
        (7, 7, (2, 4, 6, 8, 10, 12)),
    ],
)
def test_ticks_are_round_and_hold_the_values(low, high, ticks):
    scale = linear(low, high, 4)
    assert scale.ticks == ticks
    assert scale.low <= low and high <= scale.high


def test_an_axis_that_ends_with_its_values_has_only_ticks_inside():
    scale = linear(10, 250, 5, whole=True, nice=False)
    assert (scale.low, scale.high, scale.ticks) == (10, 250, (50, 100, 150, 200, 250))
    assert linear(1, 3, 6, whole=True, nice=False).ticks == (1, 2, 3)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.01, 1.5, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)), (1e-6, 1e3, tuple(10.0**n for n in range(-6, 4)))],
)
def test_logarithmic_ticks_are_one_two_and_five_or_powers_alone(low, high, ticks):
    scale = logarithmic(low, high)
    assert scale.ticks == pytest.approx(ticks)
    assert (scale.place(low), scale.place(high)) == (0, 1)


def test_a_narrow_logarithmic_axis_still_has_ticks():
    assert len(logarithmic(2.1, 2.9).ticks) >= 2
    assert logarithmic(3.0, 3.0).place(3.0) == pytest.approx(0.5)


def test_ticks_read_as_people_write_them():
    assert [tick_text(value, 0.002) for value in (0, 0.002, 0.004)] == ["0", "0.002", "0.004"]
    assert tick_text(12000, 2000) == "12,000"
    assert tick_text(2e-5, 1e-5) == "2.0e-5"
    assert (thousands(1_500_000, 500_000), thousands(20_000, 5000), thousands(0, 5000)) == ("1.5M", "20k", "0")
    assert (money(0.5, 0.5), per_cent(0.2, 0.2)) == ("$0.5", "20%")


def elements(markup):
    return ElementTree.fromstring(f"<all>{markup}</all>").iter()


def lines_of(markup):
    return [
        [tuple(map(float, pair.split(","))) for pair in one.get("points").split()]
        for one in elements(markup)
        if one.tag == "polyline"
    ]


POINTS = [(1, 2.5), (2, 1.25), (3, 0.625)]


def test_a_line_holds_its_data_and_its_transform_fits_the_field():
    markup = drawn(Plot(Axis("step"), Axis("loss"), 200, (Series(POINTS, "training"),)))
    assert lines_of(markup) == [POINTS]
    matrix = next(one for one in elements(markup) if one.tag == "polyline").get("transform")
    a, _, _, d, e, f = (float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", matrix))
    assert [a * x + e for x, _ in POINTS] == pytest.approx([0, 50, 100])
    assert all(0 <= d * y + f <= 100 for _, y in POINTS)


def test_a_logarithmic_drawing_holds_logarithms():
    markup = drawn(Plot(Axis("step"), Axis("loss"), 200, (Series([(1, 100.0), (2, 0.1)]),)), logarithmic=True)
    assert lines_of(markup) == [[(1, 2), (2, -1)]]
    assert 'data-scale="log"' in markup


def test_names_are_text_and_an_only_point_is_a_dot():
    hostile = '</svg><script>"&'
    plot = Plot(Axis(hostile), Axis(hostile), 100, (Series([(1, 1.0)], hostile),), limit=Limit(1, hostile))
    markup = drawn(plot)
    assert "<script" not in markup
    assert markup.count("<circle") == 1


def test_bars_count_and_their_places_are_their_limits():
    bars = (HistogramBar(0, 10, 4, "four"), HistogramBar(10, 20, 2, "two"))
    markup = drawn(Plot(Axis("length"), Axis("documents", low=0), 100, bars=bars))
    found = [one for one in elements(markup) if one.tag == "rect"]
    assert [(one.get("x"), one.get("width"), one.get("height")) for one in found] == [
        ("0%", "50%", "100"),
        ("50%", "50%", "50"),
    ]
    assert [one[0].text for one in found] == ["four", "two"]


def test_spans_lie_between_their_ends():
    markup = drawn(Spans(Axis("hours"), (SpanBar("all", 0, 4, "whole", "4 h"), SpanBar("part", 1, 3, "saved", "2 h"))))
    found = [one for one in elements(markup) if one.tag == "rect"]
    assert [(one.get("x"), one.get("width")) for one in found] == [("0%", "100%"), ("25%", "50%")]
