"""Seconds, dollars, speed-ups and the whole: arithmetic that can be checked on paper."""

from dataclasses import replace

import pytest
from ablate_case import SHAPE, Machine, ablation, facts

from snaketune.ablate.effects import Epoch, MeasuredCase, effect, part_of_epoch, together
from snaketune.ablate.layouts import SampleLayout, operations
from snaketune.ablate.summing import why_not_product

EPOCH = Epoch(36_000, 75, reading=(4.0, 1.0), tokenising=(10.0, 0.0), hours_between_interruptions=24.0, save_steps=100)
SLOW = MeasuredCase(rates=(100.0, 90.0, 110.0), losses=(2.0, 2.1, 1.9), save_seconds=1.0)
FAST = MeasuredCase(rates=(200.0, 198.0, 198.0), losses=(1.9, 2.0, 1.8), save_seconds=1.0)


def test_reduction_and_speed_up_are_two_numbers_and_the_spread_is_that_of_the_rounds():
    found = effect(SLOW, FAST, EPOCH, price_per_hour=3.6)
    assert found["speed_up"] == pytest.approx(2.0)  # of 2.0, 2.2 and 1.8 in the three rounds
    assert (found["speed_up_low"], found["speed_up_high"]) == (pytest.approx(1.8), pytest.approx(2.2))
    assert found["time_reduction"] == pytest.approx(0.5)
    assert found["off"]["spread"] == pytest.approx(0.2)
    assert found["seconds_saved"] == pytest.approx(180.0)  # half of 36,000 tokens at 100 a second
    assert found["usd_saved"] == pytest.approx(0.18)
    assert found["loss_change"] == pytest.approx(-0.1)
    assert found["verdict"] == "faster"


@pytest.mark.parametrize(("rates", "verdict"), [((90.0, 80.0, 100.0), "slower"), ((99.0, 91.0, 111.0), "unclear")])
def test_what_the_rounds_do_not_agree_on_is_no_difference(rates, verdict):
    assert effect(SLOW, replace(SLOW, rates=rates), EPOCH, None)["verdict"] == verdict


def test_rounds_that_contradict_each_other_never_save_more_than_there_is():
    wild = effect(replace(SLOW, rates=(100.0, 20.0, 300.0)), replace(FAST, rates=(400.0, 400.0, 1.0)), EPOCH, None)
    assert wild["verdict"] == "unclear"
    assert wild["seconds_saved"] < EPOCH.training(replace(SLOW, rates=(100.0, 20.0, 300.0)))


def test_without_a_price_dollars_are_unknown_and_without_held_out_data_so_is_the_loss():
    found = effect(SLOW, replace(FAST, losses=(None,) * 3), EPOCH, None)
    assert found["usd_saved"] is found["loss_change"] is found["on"]["held_out_loss"] is None


def test_an_epoch_from_its_start_counts_reading_tokenising_and_checkpoints():
    often = EPOCH.seconds(SLOW, staged=False, tokenised=False, seldom=False)
    assert often == pytest.approx(10 + 4 + 360 + 1)
    assert EPOCH.seconds(SLOW, staged=True, tokenised=False, seldom=False) == pytest.approx(10 + 1 + 360 + 1)
    assert EPOCH.seconds(SLOW, staged=False, tokenised=True, seldom=False) == pytest.approx(361)
    many = replace(EPOCH, steps=1001)
    assert (many.saves(SLOW, seldom=False), many.saves(SLOW, seldom=True)) == (11, 1)


def test_a_case_that_failed_once_is_a_failed_case():
    value = {"failed": "no memory"}
    assert together([value, value]).failed == "no memory"
    assert effect(SLOW, together([value]), EPOCH, 1.0) == {"failed": "no memory"}


def test_a_part_of_an_epoch():
    found = part_of_epoch(whole=100.0, saved=20.0, price_per_hour=36.0)
    assert (found["speed_up"], found["time_reduction"], found["usd_saved"]) == (1.25, 0.2, pytest.approx(0.2))


def test_padding_costs_the_layers_and_not_a_chunked_loss():
    # 10 rows of 100 places, 500 real tokens, 200 trained; attention left out by a width of 0.
    layout, shape = SampleLayout("", 100, 10, 500, 200, 0), replace(SHAPE, attention_width=0)
    engine = {"attention": "sdpa", "chunked_loss": True, "checkpoint_every": 0}
    layers = 1000 * (4 * 300_000 + 6 * 50_000)
    assert operations(shape, layout, engine, 50_000, False) == pytest.approx((layers + 200 * 4 * 100_000) / 500)
    whole = operations(shape, layout, engine | {"chunked_loss": False}, 50_000, False)
    assert whole == pytest.approx((layers + 1000 * 4 * 100_000) / 500)


def test_measured_packing_and_right_sizing_agree_with_the_arithmetic(tmp_path):
    rows = {(row["factor"], row["where"]): row for row in facts(tmp_path)["effects"]}
    for factor in ("packing", "right_sizing"):
        row = rows[factor, "baseline"]
        assert row["places_per_token_off"] > 2 * row["places_per_token_on"] * 0.9
        assert row["predicted_speed_up"] == pytest.approx(row["speed_up"], rel=0.15)


@pytest.mark.parametrize(
    ("measured", "product", "removing", "words"),
    [
        (4.0, 8.0, {"packing": 4.0, "right_sizing": 2.0, "together": 4.1}, "remove the same padding"),
        (4.0, 6.0, {}, "they overlap"),
        (4.0, 3.0, {}, "some reinforce each other"),
        (4.0, 4.1, {}, "they are independent"),
    ],
)
def test_one_sentence_says_why_the_whole_is_not_the_product(measured, product, removing, words):
    found = why_not_product(measured, product, removing)
    assert words in found
    assert found.count(". ") == 0
    assert f"{product:.2f}" in found and f"{measured:.2f}" in found


def test_the_whole_is_measured_and_stands_next_to_the_product(tmp_path):
    found = facts(tmp_path)
    whole, alone = found["combined"], [row for row in found["effects"] if row["where"] == "baseline"]
    product = 1.0
    for row in alone:
        product *= whole["seconds_slow"] / (whole["seconds_slow"] - row["seconds_saved"])
    assert whole["product_of_parts"] == pytest.approx(product)
    assert whole["speed_up"] == pytest.approx(whole["seconds_slow"] / whole["seconds_fast"])
    assert whole["product_of_parts"] > 1.2 * whole["speed_up"]
    assert "remove the same padding" in whole["sentence"]
    assert whole["usd_saved"] == pytest.approx((whole["seconds_slow"] - whole["seconds_fast"]) / 3600 * 2.0)


def test_every_factor_is_measured_or_has_a_reason(tmp_path):
    found = facts(tmp_path)
    measured, reasons = ({row["factor"] for row in found[name]} for name in ("effects", "not_measured"))
    assert measured | reasons == set(found["titles"])
    assert not measured & reasons
    assert reasons == {"staging", "tf32", "bf16", "liger", "optimizer", "offloading", "fp8"}


def test_a_case_that_does_not_fit_ends_nothing_but_its_own_row(tmp_path):
    found = facts(tmp_path, machine=Machine(refused=("quantization-off", "baseline-packing-on")))
    failed = {row["factor"]: row["failed"] for row in found["effects"] if "failed" in row}
    assert set(failed) == {"quantization", "packing"}
    assert "no memory" in failed["quantization"]
    assert found["combined"]["product_of_parts"] > 1


def test_with_the_slow_end_out_of_reach_the_fast_one_is_still_measured(tmp_path):
    found = facts(tmp_path, machine=Machine(refused=("baseline", "pilot")))
    assert found["combined"] == {"failed": "no memory for baseline-0"}
    assert {row["where"] for row in found["effects"] if "failed" not in row} == {"fast", "beside"}


def test_cases_are_interleaved_and_a_long_first_round_leaves_two(tmp_path):
    machine, times = Machine(), iter([0.0, 200.0])
    ablation(tmp_path, wanted=("packing", "right_sizing"), machine=machine, clock=lambda: next(times)).run()
    trained = [name for name in machine.names if not name.startswith(("tokenising", "pilot"))]
    assert [name[-1] for name in trained] == ["0"] * 4 + ["1"] * 4
    assert [name[:-2] for name in trained[:4]] == [name[:-2] for name in trained[:3:-1]]


def test_only_wanted_factors_are_measured(tmp_path):
    found = facts(tmp_path, wanted=("packing",))
    assert {row["factor"] for row in found["effects"]} == {"packing"}
    assert found["not_measured"] == []
    whole = found["combined"]
    assert whole["product_of_parts"] == pytest.approx(whole["speed_up"], rel=0.02)


def test_staging_is_measured_where_there_are_copies(tmp_path):
    found = facts(tmp_path, sources=["/far/a"], copies=["/near/a"], source_bytes=10**9)
    row = next(row for row in found["effects"] if row["factor"] == "staging" and row["where"] == "baseline")
    assert row["seconds_saved"] == pytest.approx(9.0)  # 10 s from one disk, 1 s from the other
    after = next(row for row in found["effects"] if row["factor"] == "staging" and row["where"] == "fast")
    assert after["seconds_saved"] == pytest.approx(0.0)  # what is tokenised already is not read again
    same = facts(tmp_path, sources=["/far/a"], copies=["/far/a"], source_bytes=10**9)
    assert "paths.scratch" in next(row["reason"] for row in same["not_measured"] if row["factor"] == "staging")
