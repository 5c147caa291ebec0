"""Rows of documents: which go together and what of a long one is kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaketune.data.rows.packing import RowPlan, one_per_row, pack


@given(st.lists(st.integers(1, 64), max_size=300))
def test_every_document_is_packed_once_and_no_row_overflows(lengths):
    lengths = np.asarray(lengths, np.int32)
    rows = pack(lengths, 64)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(lengths[row].sum() <= 64 for row in rows)


def test_packing_is_nearly_full_on_real_length_distributions():
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(5.6, 0.9, 20_000), 8, 2048).astype(np.int32)
    rows = pack(lengths, 2048)
    assert lengths.sum() / (len(rows) * 2048) > 0.999


def test_packing_is_deterministic():
    lengths = np.random.default_rng(1).integers(1, 100, 500)
    assert [row.tolist() for row in pack(lengths, 128)] == [row.tolist() for row in pack(lengths, 128)]


@pytest.mark.parametrize("lengths", [[65], [0], [3, 65]])
def test_documents_that_fit_no_row_are_refused(lengths):
    with pytest.raises(ValueError, match="1 to 64"):
        pack(np.asarray(lengths), 64)


def test_a_plan_reads_like_a_list_of_rows():
    plan = RowPlan.of([np.asarray([4, 5]), np.asarray([1]), np.asarray([0, 2, 3])])
    assert len(plan) == 3
    assert [row.tolist() for row in plan] == [[4, 5], [1], [0, 2, 3]]
    assert (plan[1].tolist(), plan[-1].tolist()) == ([1], [0, 2, 3])
    assert [row.tolist() for row in plan.among(np.arange(6) * 10)] == [[40, 50], [10], [0, 20, 30]]
    assert [[row.tolist() for row in part] for part in plan.groups(2)] == [[[4, 5], [1]], [[0, 2, 3]]]
    assert RowPlan.of(plan) is plan
    assert len(RowPlan.of([])) == 0
    with pytest.raises(IndexError):
        plan[3]


def test_without_packing_each_document_has_its_own_row_beside_similar_ones():
    assert [row.tolist() for row in one_per_row(np.asarray([3, 1, 3, 2]))] == [[1], [3], [0], [2]]
