"""The rows of the cases: the same documents in each, and the lengths that are compared."""

import numpy as np
from ablate_case import RIGHTSIZE, write_tokens

from snaketune.ablate.layouts import draw, lay_out, lengths_to_compare
from snaketune.data.rows.packed_rows import PackedRows


def test_every_layout_holds_the_same_documents(tmp_path):
    sample = draw(write_tokens(tmp_path / "tokens"), 128, 42)
    layouts = [lay_out(sample, length, packs, 0, tmp_path / "rows") for length in (64, 128) for packs in (True, False)]
    assert len({(layout.tokens, layout.trained, layout.squares) for layout in layouts}) == 1
    assert layouts[0].places_per_token < 1.2 < 2 < layouts[1].places_per_token
    records = [sorted(_records(layout)) for layout in layouts]
    assert records.count(records[0]) == 4
    assert layouts[1].rows == len(sample.train) == 600


def _records(layout):
    rows = PackedRows(f"{layout.folder}/train.arrow")
    return [document.record for row in range(len(rows)) for document in rows.documents(row)]


def test_rows_are_laid_out_once(tmp_path):
    sample = draw(write_tokens(tmp_path / "tokens"), 128, 42)
    first = lay_out(sample, 64, True, 0, tmp_path / "rows")
    written = (tmp_path / "rows" / "64-packed" / "train.arrow").stat().st_mtime_ns
    assert lay_out(sample, 64, True, 0, tmp_path / "rows") == first
    assert (tmp_path / "rows" / "64-packed" / "train.arrow").stat().st_mtime_ns == written


def test_what_the_run_drops_is_in_no_layout(tmp_path):
    tokens = write_tokens(tmp_path / "tokens")
    sample = draw(tokens, 20, 42)
    assert sample.longest <= 20
    assert len(sample.train) < 600
    assert np.array_equal(sample.train, draw(tokens, 20, 42).train)


def test_a_given_length_is_compared_with_what_the_data_need(tmp_path):
    tokens = write_tokens(tmp_path / "tokens")
    assert lengths_to_compare(tokens, RIGHTSIZE, 64, 2048) == (64, 128)
    from_data = {**RIGHTSIZE, "max_length": 64, "max_length_from": "data"}
    assert lengths_to_compare(tokens, from_data, 64, 2048) == (64, 256)  # the guides' length, within the context
    assert lengths_to_compare(tokens, from_data | {"model_context": 64}, 64, 2048) == (64, 64)
