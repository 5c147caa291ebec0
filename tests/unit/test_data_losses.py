"""What the screen says about data that are not trained on, and the limit."""

import re

import numpy as np
import pytest

from snaketune.core.errors import DataError
from snaketune.data.rows.cutting import Sizes
from snaketune.data.rows.rightsizing import LengthPolicy, rightsize
from snaketune.data.tokens.left_out_records import (
    check_losses,
    left_out_at_tokenising,
    lengths_told,
    percentage,
    removed_duplicates,
)


def facts_of(lengths, policy, context=64, plain=False, first=1):
    sizes = [Sizes(np.asarray(part), np.full(len(part), plain), np.full(len(part), first)) for part in (lengths, [8])]
    return rightsize(*sizes, policy, context)


def splits(**dropped):
    return {"train": {"records": 100, "dropped": dropped}, "eval": {"records": 1, "dropped": {}}}


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 9, "0%"),
        (1, 3, "33%"),
        (1, 400, "0.2%"),
        (1, 10**6, "less than 0.01%"),
        (999, 1000, "99.9%"),
        (3, 3, "100%"),
    ],
)
def test_a_share_is_never_rounded_to_nothing_or_to_all(part, whole, text):
    assert percentage(part, whole) == text


def test_what_fits_is_not_talked_about():
    facts = facts_of([10] * 100, LengthPolicy("auto", "drop"))
    assert lengths_told(facts) == removed_duplicates({"removed": 0, "records_in": 5}) == []
    assert left_out_at_tokenising(splits()) == []
    check_losses(facts, splits(), LengthPolicy("auto", "drop"))


@pytest.mark.parametrize(
    ("policy", "context", "origin", "cure"),
    [
        (LengthPolicy("auto", "drop"), 64, "context", "the model's context.*a longer context"),
        (LengthPolicy(64, "drop"), 128, "configuration", r"raise tokens\.max_length"),
        (LengthPolicy("auto", "drop", coverage=0.5), 4096, "data", r"raise tokens\.coverage or"),
    ],
)
def test_dropped_records_are_said_with_their_tokens_and_the_keys_that_keep_them(policy, context, origin, cure):
    facts = facts_of([10] * 90 + [70] * 9 + [900], policy, context)
    assert facts["max_length_from"] == origin
    [line] = lengths_told(facts)
    dropped = 1 if origin == "data" else 10
    assert re.match(rf"Dropped {dropped} of 101 records \(.*% of the records, .*% of the tokens\).*900", line)
    assert re.search(cure, line)
    assert "tokens.on_too_long to truncate" in line
    assert "truncate" not in lengths_told(facts, pairs=True)[0]


def test_more_than_the_limit_of_records_or_of_tokens_stops():
    policy = LengthPolicy(64, "drop")
    facts = facts_of([10] * 96 + [70] * 4, policy, 128)
    with pytest.raises(
        DataError, match=r"max_dropped_fraction: more than 0\.05 .*22% of the tokens.*to 0\.23"
    ) as caught:
        check_losses(facts, splits(), policy)
    check_losses(facts, splits(), LengthPolicy(64, "drop", max_dropped_fraction=0.23))
    assert caught.value
    few = facts_of([10] * 1000 + [70] * 4, policy, 128)
    check_losses(few, splits(), policy)
    with pytest.raises(DataError, match=r"Left out 60 of 161 records .* 60 control token; .*Dropped 4 of 1,005"):
        check_losses(few, splits(control_token=60), policy)


def test_what_the_coverage_gives_up_is_allowed():
    policy = LengthPolicy("auto", "drop", coverage=0.7)
    facts = facts_of([10] * 80 + [13] * 20, LengthPolicy("auto", "drop", coverage=0.7, pad_to_multiple_of=1), 4096)
    assert facts["dropped"] == 20
    check_losses(facts, splits(), policy)


def test_texts_in_pieces_and_cut_records_are_said_and_are_within_the_limit():
    policy = LengthPolicy(64, "truncate")
    facts = facts_of([10, 900], policy, plain=True)
    assert lengths_told(facts) == [
        "Cut 1 text that is longer than the max_length of 64 tokens (tokens.max_length) into 15 pieces; every token is"
        " trained once."
    ]
    assert (facts["tokens_dropped"], facts["tokens_truncated"], facts["tokens_kept"]) == (0, 0, 910)
    check_losses(facts, splits(), policy)
    facts = facts_of([10, 900], policy)
    assert "836 tokens (91%) are cut off at the end" in lengths_told(facts)[0]
    check_losses(facts, splits(), policy)


def test_a_cut_record_without_an_answer_is_dropped_and_counts():
    policy = LengthPolicy(64, "truncate")
    facts = facts_of([10, 900], policy, first=100)
    assert (facts["dropped"], facts["truncated"]) == (1, 0)
    with pytest.raises(DataError) as caught:
        check_losses(facts, splits(), policy)
    assert "set tokens.on_too_long to truncate" not in str(caught.value)


def test_duplicates_are_said_by_kind():
    facts = {"removed": 3, "records_in": 40, "removed_exact": 1, "removed_near": 2}
    [line] = removed_duplicates(facts)
    assert line.startswith("Removed 3 of 40 records (8%): 1 equal to an earlier one (dedupe.exact) and 2 nearly equal")
