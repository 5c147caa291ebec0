import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaketune.common.errors import ConfigError, DataError
from snaketune.data.rightsizing import LengthPolicy, account_for, choose_max_length, costs, histogram, rightsize

AUTO = LengthPolicy("auto", "drop")


def test_a_maximum_of_1481_gives_1536():
    assert choose_max_length(np.asarray([10, 1481, 700]), AUTO, 4096) == 1536


def test_the_models_context_caps_the_length():
    assert choose_max_length(np.asarray([10, 1481]), AUTO, 1024) == 1024
    assert choose_max_length(np.asarray([10, 1481]), AUTO, None) == 1536


def test_coverage_is_of_records_and_of_tokens():
    lengths = np.asarray([10] * 99 + [1000])
    policy = LengthPolicy("auto", "drop", coverage=0.9, pad_to_multiple_of=8)
    assert choose_max_length(lengths, policy, None) == 1000
    lengths = np.asarray([10] * 999 + [1000])
    assert choose_max_length(lengths, policy, None) == 16


def test_a_given_length_is_kept_and_checked():
    assert choose_max_length(np.asarray([10]), LengthPolicy(300, "drop"), 512) == 300
    with pytest.raises(ConfigError, match="300 is more than the model's context of 256"):
        choose_max_length(np.asarray([10]), LengthPolicy(300, "drop"), 256)


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=200), st.integers(8, 400), st.sampled_from(["drop", "truncate"])
)
def test_kept_dropped_and_truncated_tokens_are_all_tokens(lengths, max_length, policy):
    account = account_for(np.asarray(lengths), max_length, policy)
    assert account["tokens_kept"] + account["tokens_dropped"] + account["tokens_truncated"] == sum(lengths)
    assert account["kept"] + account["dropped"] == len(lengths)
    assert account["truncated"] <= account["kept"]


def test_facts_name_what_is_lost():
    facts = rightsize(np.asarray([10, 20, 90]), np.asarray([100, 64]), LengthPolicy(64, "drop"), 128)
    assert (facts["kept"], facts["dropped"], facts["tokens_dropped"], facts["longest"]) == (2, 1, 90, 90)
    assert facts["eval"]["dropped"] == 1
    assert facts["coverage_records"] == 0.666667
    assert sum(entry["records"] for entry in facts["histogram"]) == 3


def test_a_held_out_side_that_is_lost_is_an_error_with_numbers():
    with pytest.raises(DataError, match=r"all 2 held-out documents .* shortest has 90\): .*split\.test_size to 0"):
        rightsize(np.asarray([10]), np.asarray([90, 100]), LengthPolicy(64, "drop"), 128)
    assert rightsize(np.asarray([10]), np.asarray([90]), LengthPolicy(64, "truncate"), 128)["eval"]["truncated"] == 1


@pytest.mark.parametrize(
    ("lengths", "policy", "words"),
    [
        ([], AUTO, "no training document"),
        ([90, 80], LengthPolicy(64, "drop"), "all 2 training documents are longer than 64"),
        ([10, 80], LengthPolicy(64, "error"), "1 of 2 training documents"),
    ],
)
def test_nothing_left_is_an_error_with_numbers(lengths, policy, words):
    with pytest.raises(DataError, match=words):
        rightsize(np.asarray(lengths, np.int32), np.asarray([], np.int32), policy, 128)


def test_the_histogram_covers_every_length():
    bins = histogram(np.asarray([1, 5, 10_000]))
    assert len(bins) <= 49
    assert bins[0]["from"] == 0
    assert bins[-1]["from"] <= 10_000 < bins[-1]["to"]


def test_costs_of_padding_are_counted_with_the_padding():
    lengths = np.asarray([10, 60, 20, 30, 5, 5, 5, 5, 40, 3, 200])
    found = costs(lengths, 64, "drop", 256)
    assert found["padded_tokens_at_context"] == 10 * 256
    assert found["padded_tokens_at_max_length"] == 10 * 64
    assert found["padded_tokens_dynamic_batches_of_8"] == 8 * 60 + 2 * 40
    assert found["packed_tokens"] == 3 * 64
    assert costs(lengths, 64, "truncate", None)["padded_tokens_dynamic_batches_of_8"] == 8 * 60 + 3 * 64
    assert costs(lengths, 64, "truncate", None)["padded_tokens_at_context"] is None


def test_costs_are_facts():
    facts = rightsize(np.asarray([10, 20, 90]), np.asarray([], np.int32), LengthPolicy(64, "drop"), 128)
    assert facts["padded_tokens_at_max_length"] == 128
    assert facts["packed_tokens"] == 64
