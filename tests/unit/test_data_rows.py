"""Packed rows on disk."""

import numpy as np
import pytest

from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import one_per_row, pack

ROW = 24


class Store:
    """Random documents; the second half of each is trained."""

    def __init__(self, lengths, seed=0):
        generator = np.random.default_rng(seed)
        self.lengths = np.asarray(lengths, np.int32)
        self._ids = [generator.integers(3, 90, n).astype(np.int32) for n in lengths]
        self.records = np.arange(len(lengths)) * 10
        self.seconds = np.zeros(len(lengths), np.int32)

    def document(self, index):
        ids = self._ids[index]
        return ids, (np.arange(len(ids)) >= len(ids) // 2).astype(np.int8)


@pytest.fixture
def store():
    return Store(np.random.default_rng(1).integers(1, ROW + 1, 60))


@pytest.mark.parametrize("packer", [lambda lengths: pack(lengths, ROW), one_per_row])
def test_rows_hold_every_document_with_its_boundaries(store, tmp_path, packer):
    counts = write_rows(tmp_path / "rows.arrow", store, packer(store.lengths), ROW, 99)
    rows = PackedRows(tmp_path / "rows.arrow")
    assert counts["tokens"] == int(store.lengths.sum()) == int(rows.tokens.sum())
    assert counts["trainable_tokens"] == int(rows.loss_mask.sum())
    found = {}
    for row in range(len(rows)):
        ids, mask, positions = (rows.take(name, [row])[0] for name in ("input_ids", "loss_mask", "position_ids"))
        for document in rows.documents(row):
            part = slice(document.start, document.start + document.length)
            found[document.record] = ids[part].tolist()
            assert positions[part].tolist() == list(range(document.length))
            assert mask[document.start] == 0
            trained = store.document(document.record // 10)[1]
            assert mask[part][1:].tolist() == trained[1:].tolist()
        used = int(rows.tokens[row])
        assert (ids[used:] == 99).all()
        assert not mask[used:].any()
        assert positions[used:].tolist() == list(range(ROW - used))
    assert found == {n * 10: store.document(n)[0].tolist() for n in range(60)}


def test_rows_in_several_batches_read_the_same(store, tmp_path, monkeypatch):
    packed = pack(store.lengths, ROW)
    write_rows(tmp_path / "one.arrow", store, packed, ROW, 0)
    monkeypatch.setattr("snaketune.data.rows.packed_rows.BATCH_TOKENS", 2 * ROW)
    write_rows(tmp_path / "many.arrow", store, packed, ROW, 0)
    one, many = PackedRows(tmp_path / "one.arrow"), PackedRows(tmp_path / "many.arrow")
    order = np.random.default_rng(0).permutation(len(one)).tolist()
    for name in ("input_ids", "loss_mask", "position_ids"):
        assert np.array_equal(one.take(name, order), many.take(name, order))
        assert np.array_equal(getattr(one, name), getattr(many, name))
    assert [many.documents(row) for row in order] == [one.documents(row) for row in order]
    assert one.take("input_ids", []).shape == many.take("input_ids", []).shape == (0, ROW)


def test_a_document_longer_than_a_row_is_cut_before(tmp_path):
    with pytest.raises(ValueError, match="60 tokens does not fit"):
        write_rows(tmp_path / "rows.arrow", Store([5, 60]), [np.asarray([1])], ROW, 0)


def test_a_failure_leaves_no_file(store, tmp_path):
    with pytest.raises(IndexError):
        write_rows(tmp_path / "rows.arrow", store, [np.asarray([1000])], ROW, 0)
    assert list(tmp_path.iterdir()) == []
