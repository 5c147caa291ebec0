"""Texts longer than a row: nothing of them is lost, and conversations keep their beginning."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snaketune.data.rows.cutting import CutDocuments, Sizes, cut
from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import one_per_row, pack

ROW = 16


class Store:
    """Documents of different token ids: texts, trained from the second token on, and conversations."""

    def __init__(self, lengths, plain, firsts=None):
        self.lengths, self.plain = np.asarray(lengths, np.int32), np.asarray(plain, bool)
        self.firsts = np.asarray(firsts or [1] * len(lengths), np.int32)
        self.records = np.arange(len(lengths)) * 10
        self.seconds = np.zeros(len(lengths), np.int32)
        self._ends = np.cumsum(self.lengths)

    def document(self, index):
        size = int(self.lengths[index])
        return np.arange(self._ends[index] - size, self._ends[index], dtype=np.int32), (
            np.arange(size) >= self.firsts[index]
        ).astype(np.int8)


def rows_of(store, tmp_path, packer=pack, on_too_long="drop"):
    pieces = cut(Sizes.of(store), ROW, on_too_long)
    plan = packer(pieces.lengths, ROW) if packer is pack else packer(pieces.lengths)
    write_rows(tmp_path / "rows.arrow", CutDocuments(store, pieces), plan, ROW, 0)
    return PackedRows(tmp_path / "rows.arrow"), pieces


@pytest.mark.parametrize("packer", [pack, one_per_row])
@pytest.mark.parametrize("on_too_long", ["drop", "truncate"])
@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(2, 100), min_size=1, max_size=12))
def test_each_token_of_a_text_is_trained_exactly_once(tmp_path_factory, packer, on_too_long, lengths):
    store = Store(lengths, [True] * len(lengths))
    rows, _ = rows_of(store, tmp_path_factory.mktemp("rows"), packer, on_too_long)
    trained = Counter(rows.input_ids[rows.loss_mask == 1].tolist())
    # The first token of a text follows nothing, so nothing can predict it.
    assert trained == Counter(token for n in range(len(lengths)) for token in store.document(n)[0][1:].tolist())


@pytest.mark.parametrize("packer", [pack, one_per_row])
def test_a_trained_token_follows_the_token_before_it_in_the_text(tmp_path, packer):
    rows, _ = rows_of(Store([100, 7, 31, 16, 17], [True] * 5), tmp_path, packer)
    for row, column in zip(*np.nonzero(rows.loss_mask), strict=True):
        assert rows.input_ids[row, column - 1] == rows.input_ids[row, column] - 1
        assert rows.position_ids[row, column] == rows.position_ids[row, column - 1] + 1


def test_pieces_fill_rows_and_are_documents_of_their_own(tmp_path):
    store = Store([40], [True])
    rows, pieces = rows_of(store, tmp_path)
    assert [(int(a), int(b)) for a, b in zip(pieces.starts, pieces.stops, strict=True)] == [(0, 16), (15, 31), (30, 40)]
    assert pieces.counts() == {"documents": 1, "pieces": 3, "tokens_repeated": 2}
    assert [rows.documents(row)[0].record for row in range(3)] == [0, 0, 0]
    assert rows.input_ids[0, 0] == 0
    assert rows.input_ids.max() == 39


@pytest.mark.parametrize(("first", "kept"), [(1, True), (15, True), (16, False), (39, False)])
def test_a_conversation_that_is_cut_keeps_its_beginning_or_is_dropped(tmp_path, first, kept):
    store = Store([40, 5], [False, False], [first, 1])
    rows, pieces = rows_of(store, tmp_path, on_too_long="truncate")
    assert pieces.documents.tolist() == ([0, 1] if kept else [1])
    if kept:
        [row] = [row for row in range(len(rows)) if rows.documents(row)[0].record == 0]
        assert rows.input_ids[row].tolist() == store.document(0)[0][:ROW].tolist()
        assert rows.loss_mask[row].any()
    assert len(cut(Sizes.of(store), ROW, "drop")) == 1


def test_what_fits_is_whole():
    pieces = cut(Sizes.of(Store([ROW, 2, 9], [True, True, False])), ROW, "drop")
    assert pieces.lengths.tolist() == [ROW, 2, 9]
    assert pieces.counts()["tokens_repeated"] == 0
