import io
import unicodedata

import numpy as np
import orjson
import pytest
from data_files import canonical
from hypothesis import given
from hypothesis import strategies as st

from snaketune.common.errors import DataError
from snaketune.data.dedupe import carry_out, first_occurrences, plan_exact, plan_nothing
from snaketune.data.records import key_bytes, normalised


def dedupe(path, plan=plan_exact):
    """Return the lines that stay, the pairs and the facts."""
    found, kept, duplicates = plan(path), io.BytesIO(), io.BytesIO()
    carry_out(found, path, kept, duplicates)
    pairs = [orjson.loads(line) for line in duplicates.getvalue().splitlines()]
    return kept.getvalue().splitlines(keepends=True), pairs, found.facts()


def asked(question, answer):
    return [("user", question), ("assistant", answer)]


def test_the_first_of_equal_records_stays_untouched_and_all_others_name_it(tmp_path):
    path = canonical(tmp_path / "r", asked("a", "b"), "x", asked(" a\n", "b"), asked("c", "d"), asked("a", "b "))
    lines = path.read_bytes().splitlines(keepends=True)
    kept, pairs, facts = dedupe(path)
    assert kept == [lines[0], lines[1], lines[3]]
    assert [(pair["removed"]["line"], pair["kept"]["line"]) for pair in pairs] == [(3, 1), (5, 1)]
    assert pairs[0] == {
        "removed": {"source": 0, "line": 3},
        "kept": {"source": 0, "line": 1},
        "kind": "exact",
        "similarity": 1.0,
        "text": "a → b",
    }
    assert facts == {"records_in": 5, "kept": 3, "removed": 2}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (asked("a  b", "c"), asked("a\n\tb\u00a0", "c"), True),
        (asked("\ufb01ne \u2460", "c"), asked("fine 1", "c"), True),
        (asked("e\u0301", "c"), asked("\u00e9", "c"), True),
        (asked("A", "c"), asked("a", "c"), False),
        (asked("a", "b c"), asked("a b", "c"), False),
        ([("user", "a"), ("user", "b"), ("assistant", "c")], asked("a b", "c"), False),
        ([("system", "a"), *asked("b", "c")], [("user", "a"), *asked("b", "c")], False),
        (asked("a", "b") + asked("c", "d"), asked("a", "b") + asked("c", "e"), False),
        (asked("a\x1e", "b"), asked("a", "b"), True),
        ("a b", "a  b", True),
        ("ab", "a b", False),
    ],
)
def test_what_counts_as_equal(tmp_path, one, other, same):
    kept, pairs, _ = dedupe(canonical(tmp_path / "r", one, other))
    assert (len(kept), len(pairs)) == ((1, 1) if same else (2, 0))


def test_nothing_is_removed_when_it_is_off(tmp_path):
    path = canonical(tmp_path / "r", "a", "a")
    kept, pairs, facts = dedupe(path, plan_nothing)
    assert b"".join(kept) == path.read_bytes()
    assert (pairs, facts) == ([], {"records_in": 2, "kept": 2, "removed": 0})


def test_a_long_text_is_listed_with_its_beginning(tmp_path):
    _, pairs, _ = dedupe(canonical(tmp_path / "r", asked("q" * 150, "a" * 9999), asked("q" * 150, "a" * 9999)))
    assert len(pairs[0]["text"]) == 200
    assert pairs[0]["text"].startswith("q" * 150 + " → a")


def test_a_damaged_file_of_records_is_one_sentence(tmp_path):
    path = canonical(tmp_path / "r", "a")
    for damage in (b'{"source":0', b'{"source":0,"line":2}\n', b"[]\n"):
        (tmp_path / "damaged").write_bytes(path.read_bytes() + damage)
        with pytest.raises(DataError, match="damaged line 2 is not a record"):
            plan_exact(tmp_path / "damaged")


def test_no_records_are_no_problem(tmp_path):
    assert dedupe(canonical(tmp_path / "r"))[2] == {"records_in": 0, "kept": 0, "removed": 0}


@given(st.text() | st.text(alphabet="a \n\t\x0b\x0c\x1c\x1f\x00\u00a0\u2028\u0301e"))
def test_normalising_is_nfkc_and_single_spaces(text):
    assert normalised(text) == " ".join(unicodedata.normalize("NFKC", text).split()).encode()


turns = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(alphabet="ab \x1e\x1f")), max_size=4
)


@given(turns, turns)
def test_keys_are_equal_exactly_when_roles_and_normalised_texts_are(one, other):
    same = [(role, normalised(text)) for role, text in one] == [(role, normalised(text)) for role, text in other]
    assert (key_bytes(one) == key_bytes(other)) == same


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40))
def test_first_occurrences_also_where_keys_share_one_half(keys):
    seen = {}
    expected = [seen.setdefault(key, index) for index, key in enumerate(keys)]
    assert first_occurrences(np.array(keys, np.uint64).reshape(-1, 2)).tolist() == expected
