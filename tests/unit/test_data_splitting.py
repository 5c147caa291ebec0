import io

import orjson
import pytest
from data_files import canonical
from hypothesis import given, settings
from hypothesis import strategies as st

from snaketune.core.errors import DataError
from snaketune.data.split.splitting import plan_split, write_splits


def asked(question, answer="b"):
    return [("user", question), ("assistant", answer)]


def split(path, test_size=0.05, seed=0):
    """Return the line numbers of both sides."""
    train, evaluation = io.BytesIO(), io.BytesIO()
    write_splits(plan_split(path, test_size, seed), path, train, evaluation)
    return tuple([orjson.loads(line)["line"] for line in side.getvalue().splitlines()] for side in (train, evaluation))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    records = [asked(f"question {number}") for number in range(5000)]
    return canonical(tmp_path_factory.mktemp("split") / "r", *records)


def test_about_the_wanted_fraction_is_held_out_and_order_is_kept(corpus):
    train, evaluation = split(corpus, 0.1)
    assert 430 < len(evaluation) < 570
    assert sorted(train + evaluation) == list(range(1, 5001))
    assert train == sorted(train)
    assert evaluation == sorted(evaluation)


def test_lines_pass_through_untouched(corpus):
    train, evaluation = io.BytesIO(), io.BytesIO()
    write_splits(plan_split(corpus, 0.1, 0), corpus, train, evaluation)
    lines = (train.getvalue() + evaluation.getvalue()).splitlines()
    assert sorted(lines) == sorted(corpus.read_bytes().splitlines())


def test_another_seed_holds_out_others_and_the_same_seed_the_same(corpus):
    assert split(corpus, 0.1, 1)[1] != split(corpus, 0.1, 0)[1] == split(corpus, 0.1, 0)[1]


def test_a_larger_part_contains_the_smaller_one(corpus):
    assert set(split(corpus, 0.05)[1]) < set(split(corpus, 0.1)[1])


def test_growth_and_order_move_no_record(corpus, tmp_path):
    lines = corpus.read_bytes().splitlines(keepends=True)
    half = tmp_path / "half"
    half.write_bytes(b"".join(reversed(lines[:2500])))
    assert sorted(split(half, 0.1)[1]) == [line for line in split(corpus, 0.1)[1] if line <= 2500]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.text(max_size=3)), min_size=2), st.floats(0.05, 0.9))
def test_equal_prompts_are_never_on_both_sides(tmp_path_factory, pairs, test_size):
    spaced = [asked(f" {prompt}\n" if index % 2 else prompt, answer) for index, (prompt, answer) in enumerate(pairs)]
    path = canonical(tmp_path_factory.mktemp("split") / "r", *spaced)
    try:
        train, evaluation = split(path, test_size)
    except DataError:
        return
    assert evaluation
    assert not {pairs[line - 1][0] for line in train} & {pairs[line - 1][0] for line in evaluation}


def test_the_prompt_is_everything_before_the_last_answer(tmp_path):
    opening = [("system", "s"), *asked("a", "b"), ("user", "c")]
    same = [[*opening, ("assistant", f"answer {number}")] for number in range(40)]
    other = [[*asked("a", f"b {number}"), *asked("c", "d")] for number in range(200)]
    held_out = plan_split(canonical(tmp_path / "r", *same, *other), 0.3, 0).tolist()
    assert len(set(held_out[:40])) == 1
    assert set(held_out[40:]) == {True, False}


def test_all_of_a_plain_text_counts(tmp_path):
    held_out = plan_split(canonical(tmp_path / "r", *(f"text {number // 2}" for number in range(400))), 0.3, 0)
    assert (held_out[::2] == held_out[1::2]).all()
    assert 40 < held_out.sum() < 200


def test_zero_holds_nothing_out(corpus):
    assert split(corpus, 0)[1] == []


def test_a_small_set_lends_its_lowest_hash_with_all_records_of_that_prompt(tmp_path):
    path = canonical(tmp_path / "r", *(asked(f"q{number % 3}", str(number)) for number in range(6)))
    train, evaluation = split(path, 1e-9)
    assert len(evaluation) == 2
    assert evaluation[1] - evaluation[0] == 3
    assert len(train) == 4


@pytest.mark.parametrize("records", [[asked("a")], [asked("a", "b"), asked("a", "c")], []])
def test_nothing_left_to_train_on_is_one_sentence(tmp_path, records):
    with pytest.raises(DataError, match=r"split\.test_size"):
        split(canonical(tmp_path / "r", *records), 0.5)
