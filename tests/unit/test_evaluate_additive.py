import numpy as np
import pytest

from snaketune.evaluate.additive import Additive, measure_differences, values


def ratio(sums):
    return float(sums[0] / sums[1]) if sums[1] else None


def losses(nll, tokens):
    return {"loss": Additive(np.stack([nll, tokens], axis=1).astype(float), ratio)}


def drawn(rng, size=400, shift=0.0, noise=0.3):
    tokens = rng.integers(1, 40, size)
    base = rng.normal(2.0, 0.8, size) * tokens
    return losses(base, tokens), losses(base + rng.normal(shift, noise, size) * tokens, tokens)


def test_a_value_weighs_by_tokens():
    assert values(losses([2.0, 30.0], [2, 10])) == {"loss": 32 / 12}
    assert losses([2.0, 30.0], [2, 10])["loss"].over(np.array([True, False])) == 1.0


def test_a_clear_difference_leaves_out_zero_and_none_does_not():
    rng = np.random.default_rng(3)
    better = measure_differences(*drawn(rng, shift=-0.2))["loss"]
    assert better["low"] < better["difference"] < better["high"] < 0
    same = measure_differences(*drawn(rng, shift=0.0))["loss"]
    assert same["low"] < 0 < same["high"]


def test_pairing_makes_the_interval_narrow():
    rng = np.random.default_rng(5)
    before, after = drawn(rng, noise=0.02)
    tokens = before["loss"].parts[:, 1]
    found = measure_differences(before, after)["loss"]
    alone = (before["loss"].parts[:, 0] / tokens).std() / np.sqrt(len(tokens))
    assert found["high"] - found["low"] < 0.2 * alone


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Of 60 data sets with a known difference, 95% of the intervals hold it, give or take chance."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(60):
        found = measure_differences(*drawn(rng, size=80, shift=-0.05))["loss"]
        held += found["low"] <= -0.05 <= found["high"]
    assert 51 <= held <= 60


def test_the_width_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(11)
    moves = rng.normal(0, 1, 2000)
    before, after = losses(np.zeros(2000), np.ones(2000)), losses(moves, np.ones(2000))
    found = measure_differences(before, after)["loss"]
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * moves.std() / np.sqrt(2000), rel=0.1)


def test_equal_inputs_give_equal_intervals():
    pair = drawn(np.random.default_rng(1))
    assert measure_differences(*pair) == measure_differences(*pair)


def test_too_few_cases_have_a_difference_without_an_interval():
    assert measure_differences(losses([2.0], [2]), losses([1.0], [2])) == {"loss": {"difference": -0.5}}
    assert measure_differences(losses([], []), losses([], [])) == {}
    assert measure_differences({}, {}) == {}


def test_draws_in_which_a_measure_does_not_exist_are_left_out():
    parts = np.array([[0.0, 0.0]] * 9 + [[1.0, 1.0]])
    before, after = Additive(parts * [0, 1], ratio), Additive(parts, ratio)
    assert measure_differences({"m": before}, {"m": after})["m"] == {"difference": 1.0, "low": 1.0, "high": 1.0}
