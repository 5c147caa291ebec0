import io
import unicodedata

import numpy as np
import orjson
import pyarrow as pa
import pytest
from data_files import canonical
from hypothesis import given
from hypothesis import strategies as st

from snaketune.core.errors import DataError
from snaketune.data.records.canonical_records import exact_bytes, key_bytes, normalised
from snaketune.data.similarity.dedupe import DedupePolicy, plan_removal
from snaketune.data.similarity.removal import PAIRS_SCHEMA, LineIndex, remove_records, write_removed
from snaketune.data.similarity.sorted_keys import first_occurrences

EXACT = {"near": False}


def dedupe(path, **policy):
    """Return the lines that stay, the pairs and the facts."""
    plan = plan_removal(path, DedupePolicy(**{**EXACT, **policy}), path.parent)
    index, table = LineIndex.read(path), path.with_suffix(".arrow")
    with open(table, "wb") as file:
        write_removed(plan, index, file)
    kept, pairs = carried_out(table, path)
    return kept, pairs, plan.facts()


def carried_out(table, path):
    kept, duplicates = io.BytesIO(), io.BytesIO()
    remove_records(table, path, LineIndex.read(path), kept, duplicates)
    pairs = [orjson.loads(line) for line in duplicates.getvalue().splitlines()]
    return kept.getvalue().splitlines(keepends=True), pairs


def asked(question, answer):
    return [("user", question), ("assistant", answer)]


def test_the_first_of_equal_records_stays_untouched_and_all_others_name_it(tmp_path):
    path = canonical(tmp_path / "r", asked("a", "b"), "x", asked("a", "b"), asked("c", "d"), asked("a", "b"))
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
        "kept_text": "a → b",
    }
    counts = {"records_in": 5, "kept": 3, "removed": 2, "removed_exact": 2, "removed_near": 0}
    assert facts == {**counts, "clusters": 1, "largest_cluster": 3, "compared_pairs": 0}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (asked("a b", "c"), asked("a b", "c"), True),
        (asked("a b", "c"), asked("a\tb", "c"), False),
        (asked("a b", "c"), asked("a  b", "c"), False),
        (asked("a b", "c"), asked("a\u00a0b", "c"), False),
        (asked("a", "c"), asked("a", "c "), False),
        (asked("a", "if b:\n    c\nd"), asked("a", "if b:\n    c\n    d"), False),
        (asked("What is 10\u00b2?", "c"), asked("What is 102?", "c"), False),
        (asked("\u2163", "c"), asked("IV", "c"), False),
        (asked("\ufb01ne \u2460", "c"), asked("fine 1", "c"), False),
        (asked("e\u0301", "c"), asked("\u00e9", "c"), False),
        (asked("A", "c"), asked("a", "c"), False),
        (asked("a", "b c"), asked("a b", "c"), False),
        ([("user", "a"), ("user", "b"), ("assistant", "c")], asked("a b", "c"), False),
        ([("system", "a"), *asked("b", "c")], [("user", "a"), *asked("b", "c")], False),
        (asked("a", "b") + asked("c", "d"), asked("a", "b") + asked("c", "e"), False),
        (asked("a\x1e", "b"), asked("a", "b"), False),
        ("a b", "a b", True),
        ("a b", "a  b", False),
        ("ab", "a b", False),
    ],
)
def test_what_counts_as_equal(tmp_path, one, other, same):
    kept, pairs, _ = dedupe(canonical(tmp_path / "r", one, other))
    assert (len(kept), len(pairs)) == ((1, 1) if same else (2, 0))


def test_case_counts_unless_it_is_ignored(tmp_path):
    path = canonical(tmp_path / "r", asked("Straße A", "c"), asked("STRASSE a", "C"), asked("strase", "c"))
    assert dedupe(path)[2]["removed"] == 0
    assert dedupe(path, ignore_case=True)[2]["removed"] == 1


def test_nothing_is_removed_when_it_is_off(tmp_path):
    path = canonical(tmp_path / "r", "a", "a")
    kept, pairs, facts = dedupe(path, exact=False)
    assert b"".join(kept) == path.read_bytes()
    assert (pairs, facts["removed"]) == ([], 0)


def table_of(path, *rows):
    """Write a table of removals as another engine might."""
    columns = [pa.array(column, kind.type) for column, kind in zip(zip(*rows, strict=True), PAIRS_SCHEMA, strict=True)]
    with pa.ipc.new_file(path, PAIRS_SCHEMA) as writer:
        writer.write_table(pa.table(columns, schema=PAIRS_SCHEMA))
    return path


def test_a_table_of_another_engine_is_carried_out_also_where_a_later_record_stays(tmp_path):
    path = canonical(tmp_path / "r", "a", "b", "c", "d")
    table = table_of(tmp_path / "t", (0, 3, 0, 4, 0.9, "semantic"), (0, 1, 0, 2, 0.8, "semantic"))
    kept, pairs = carried_out(table, path)
    assert [orjson.loads(line)["text"] for line in kept] == ["b", "d"]
    assert [(pair["text"], pair["kept_text"], pair["kind"]) for pair in pairs] == [
        ("a", "b", "semantic"),
        ("c", "d", "semantic"),
    ]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([(0, 9, 0, 1, 1.0, "x")], "no record of line 9"),
        ([(0, 1, 0, 9, 1.0, "x")], "no record of line 9"),
        ([(0, 2, 0, 1, 1.0, "x"), (0, 3, 0, 2, 1.0, "x")], "also removed"),
        ([(0, 2, 0, 1, 1.0, "x"), (0, 2, 0, 3, 1.0, "x")], "removed twice"),
        ([(0, 1, 0, 1, 1.0, "x")], "also removed"),
    ],
)
def test_a_table_that_loses_records_is_one_sentence(tmp_path, rows, problem):
    with pytest.raises(DataError, match=problem):
        carried_out(table_of(tmp_path / "t", *rows), canonical(tmp_path / "r", "a", "b", "c"))


def test_a_long_text_is_listed_with_its_beginning(tmp_path):
    _, pairs, _ = dedupe(canonical(tmp_path / "r", asked("q" * 150, "a" * 9999), asked("q" * 150, "a" * 9999)))
    assert len(pairs[0]["text"]) == 200
    assert pairs[0]["text"].startswith("q" * 150 + " → a")


def test_a_damaged_file_of_records_is_one_sentence(tmp_path):
    path = canonical(tmp_path / "r", "a")
    for damage in (b'{"source":0', b'{"source":0,"line":2}\n', b"[]\n"):
        (tmp_path / "damaged").write_bytes(path.read_bytes() + damage)
        with pytest.raises(DataError, match="damaged line 2 is not a record"):
            dedupe(tmp_path / "damaged")


def test_no_records_are_no_problem(tmp_path):
    kept, pairs, facts = dedupe(canonical(tmp_path / "r"), near=True)
    assert (kept, pairs, facts["records_in"], facts["removed"]) == ([], [], 0, 0)


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


def test_records_that_differ_in_roles_or_spaces_alone_stay(tmp_path):
    alike = [asked("a b", "c"), asked("ab", "c"), asked("a", "bc"), [("assistant", "abc")], "abc", asked("a\nb", "c")]
    kept, pairs, _ = dedupe(canonical(tmp_path / "r", *alike, "other"))
    assert (len(kept), pairs) == (7, [])


CALL = {"type": "function", "function": {"name": "add", "arguments": "{}"}}


def calling(call_id, result_of, **more):
    """A conversation with two calls and a result of one."""
    calls = [{**CALL, "id": call_id}, {**CALL, "id": "second"}]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    return {
        "source": 0,
        "line": 1,
        "messages": [*turns, {"role": "tool", "content": "1", "tool_call_id": result_of}],
        **more,
    }


def test_all_of_a_record_counts_but_its_place_and_the_names_of_calls():
    same = exact_bytes(calling("x", "x"))
    assert exact_bytes(calling("y", "y") | {"source": 3, "line": 4}) == same
    assert exact_bytes(calling("x", "second")) != same
    assert exact_bytes(calling("x", "x", tools=[CALL])) != same
    weighted = calling("x", "x")
    weighted["messages"][1]["weight"] = 0
    assert exact_bytes(weighted) != same
