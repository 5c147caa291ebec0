import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaketune.data.packing import one_per_row, pack, window


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


def test_without_packing_each_document_has_its_own_row():
    assert [row.tolist() for row in one_per_row(np.asarray([3, 1]))] == [[0], [1]]


@given(st.integers(8, 40), st.data())
def test_the_window_keeps_the_length_and_a_part_of_the_answer(length, data):
    size = data.draw(st.integers(length + 1, 120))
    first = data.draw(st.integers(1, size - 1))
    last = data.draw(st.integers(first, size - 1))
    mask = np.zeros(size, np.int8)
    mask[first : last + 1] = 1
    part = window(mask, length)
    assert part.stop - part.start == length
    assert mask[part].sum() > 0
    if last + 1 - first <= length - length // 4:
        assert mask[part].sum() == mask.sum()
