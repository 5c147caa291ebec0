import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.rows.cutting import Sizes, cut
from snaketune.data.rows.rightsizing import (
    LengthPolicy,
    account_for,
    choose_max_length,
    histogram,
    rightsize,
    tokens_by_batching,
)

AUTO = LengthPolicy("auto", "drop")


def test_a_maximum_of_1481_gives_1536():
    assert choose_max_length(np.asarray([10, 1481, 700]), AUTO, 4096) == (1536, "data")


def test_the_models_context_caps_the_length():
    assert choose_max_length(np.asarray([10, 1481]), AUTO, 1024) == (1024, "context")
    assert choose_max_length(np.asarray([10, 1481]), AUTO, 1500) == (1500, "data")
    assert choose_max_length(np.asarray([10, 1481]), AUTO, None) == (1536, "data")


def test_coverage_is_of_records_and_of_tokens():
    lengths = np.asarray([10] * 99 + [1000])
    policy = LengthPolicy("auto", "drop", coverage=0.9, pad_to_multiple_of=8)
    assert choose_max_length(lengths, policy, None)[0] == 1000
    lengths = np.asarray([10] * 999 + [1000])
    assert choose_max_length(lengths, policy, None)[0] == 16


def test_a_given_length_is_kept_and_checked():
    assert choose_max_length(np.asarray([10]), LengthPolicy(300, "drop"), 512) == (300, "configuration")
    with pytest.raises(ConfigError, match="300 exceeds the model's context of 256"):
        choose_max_length(np.asarray([10]), LengthPolicy(300, "drop"), 256)


def conversations(*lengths):
    return Sizes.of_conversations(np.asarray(lengths, np.int32))


@st.composite
def any_sizes(draw):
    """Documents of both kinds, the first trained token of a conversation anywhere."""
    lengths = np.asarray(draw(st.lists(st.integers(2, 500), min_size=1, max_size=100)))
    plain = np.asarray(draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))))
    firsts = np.asarray(
        [1 if text else draw(st.integers(1, size - 1)) for size, text in zip(lengths, plain, strict=True)]
    )
    return Sizes(lengths, plain, firsts)


@given(any_sizes(), st.integers(8, 400), st.sampled_from(["drop", "truncate"]))
def test_kept_dropped_and_truncated_tokens_are_all_tokens(sizes, max_length, on_too_long):
    account = account_for(sizes, cut(sizes, max_length, on_too_long), max_length)
    longer = sizes.lengths > max_length
    assert account["tokens_kept"] + account["tokens_dropped"] + account["tokens_truncated"] == sizes.lengths.sum()
    assert account["kept"] + account["dropped"] == len(sizes.lengths)
    assert account["in_pieces"] == (longer & sizes.plain).sum()
    left = longer & ~sizes.plain & (sizes.firsts < max_length)
    assert account["truncated"] == (left.sum() if on_too_long == "truncate" else 0)


def test_facts_name_what_is_lost():
    facts = rightsize(conversations(10, 20, 90), conversations(100, 64), LengthPolicy(64, "drop"), 128)
    assert (facts["kept"], facts["dropped"], facts["tokens_dropped"], facts["longest"]) == (2, 1, 90, 90)
    assert facts["eval"]["dropped"] == 1
    assert facts["coverage_records"] == 0.666667
    assert sum(entry["records"] for entry in facts["histogram"]) == 3


def test_a_held_out_side_that_is_lost_is_an_error_with_numbers():
    with pytest.raises(DataError, match=r"all 2 held-out documents .* shortest has 90\): .*split\.test_size to 0"):
        rightsize(conversations(10), conversations(90, 100), LengthPolicy(64, "drop"), 128)
    assert rightsize(conversations(10), conversations(90), LengthPolicy(64, "truncate"), 128)["eval"]["truncated"] == 1


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
        rightsize(conversations(*lengths), conversations(), policy, 128)


def test_the_histogram_covers_every_length():
    bins = histogram(np.asarray([1, 5, 10_000]))
    assert len(bins) <= 49
    assert bins[0]["from"] == 0
    assert bins[-1]["from"] <= 10_000 < bins[-1]["to"]


def test_costs_of_padding_are_counted_with_the_padding():
    lengths = np.asarray([10, 60, 20, 30, 5, 5, 5, 5, 40, 3, 64])
    found = tokens_by_batching(lengths, 64, 256)
    assert found["padded_tokens_at_context"] == 11 * 256
    assert found["padded_tokens_at_max_length"] == 11 * 64
    assert found["padded_tokens_dynamic_batches_of_8"] == 8 * 60 + 3 * 64
    assert found["packed_tokens"] == 4 * 64
    assert tokens_by_batching(lengths, 64, None)["padded_tokens_at_context"] is None
    assert tokens_by_batching(lengths[:0], 64, 256)["packed_tokens"] == 0


def test_costs_are_facts():
    facts = rightsize(conversations(10, 20, 90), conversations(), LengthPolicy(64, "drop"), 128)
    assert facts["padded_tokens_at_max_length"] == 128
    assert facts["packed_tokens"] == 64
