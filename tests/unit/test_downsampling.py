import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaketune.report.charts.downsampling import every_so_often, thin


def test_a_short_curve_is_untouched():
    points = [(step, float(step)) for step in range(1000)]
    assert thin(points) == points


def test_one_spike_and_one_dip_in_a_long_curve_stay():
    values = [1.0] * 50_000
    values[31_337], values[41_999] = 99.0, -5.0
    kept = thin(list(enumerate(values)))
    assert len(kept) <= 1000
    assert (31_337, 99.0) in kept
    assert (41_999, -5.0) in kept


@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=400), st.integers(4, 60))
def test_thinning_keeps_ends_extremes_order_and_the_limit(values, maximum):
    points = list(enumerate(values))
    kept = thin(points, maximum)
    assert len(kept) <= max(maximum, 0)
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert min(v for _, v in kept) == min(values)
    assert max(v for _, v in kept) == max(values)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(points)


@pytest.mark.parametrize(("length", "rows"), [(3, 25), (25, 25), (26, 25), (10_000, 25)])
def test_tables_are_evenly_spaced_with_both_ends(length, rows):
    points = [(step, 0.0) for step in range(length)]
    shown = every_so_often(points, rows)
    assert len(shown) == min(length, rows)
    assert shown[0] == points[0]
    assert shown[-1] == points[-1]
    assert len(set(shown)) == len(shown)
