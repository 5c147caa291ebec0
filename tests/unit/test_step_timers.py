"""Tokens, squared lengths and where the time goes."""

import numpy as np
import pytest

from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import pack
from snaketune.train.monitoring.step_timers import BatchFacts, TimeSplit, TokenCounter, batch_facts, data_hint


class Documents:
    """Documents of given lengths; the first three tokens of each are not trained."""

    def __init__(self, lengths):
        self.lengths = np.array(lengths, np.int32)
        self.records = np.arange(len(lengths))
        self.seconds = np.zeros(len(lengths), np.int32)

    def __len__(self):
        return len(self.lengths)

    def document(self, index):
        mask = np.ones(self.lengths[index], np.int8)
        mask[:3] = 0
        return np.full(self.lengths[index], 7, np.int32), mask


def test_a_batch_counts_real_tokens_trained_ones_and_squared_documents(tmp_path):
    lengths = [12, 7, 5, 9, 16]
    documents = Documents(lengths)
    write_rows(tmp_path / "rows.arrow", documents, pack(documents.lengths, 20), 20, 0)
    rows = PackedRows(tmp_path / "rows.arrow")
    facts = batch_facts(rows, list(range(len(rows))))
    assert facts.tokens == sum(lengths)
    assert facts.trained == sum(lengths) - 3 * len(lengths)
    assert facts.squares == sum(n * n for n in lengths)
    assert facts.rows == tuple(range(len(rows)))


def test_a_counter_goes_on_from_a_checkpoint_but_knows_what_is_new():
    counter = TokenCounter()
    counter.add(BatchFacts((0,), 10, 6, 100))
    resumed = TokenCounter()
    resumed.restore(counter.facts())
    resumed.add(BatchFacts((1,), 5, 4, 25))
    assert (resumed.total, resumed.trained, resumed.squares, resumed.since_start) == (15, 10, 125, 5)


def test_time_is_booked_where_it_goes_and_the_rest_is_computing():
    now = [0.0]
    times = TimeSplit(lambda: now[0])
    for name, seconds in (("data", 1.0), ("evaluation", 2.0), ("checkpoint", 4.0), ("device", 0.5)):
        with times.spending(name):
            now[0] += seconds
    now[0] += 10.0
    spent = times.take()
    assert spent == {"data": 1.0, "evaluation": 2.0, "checkpoint": 4.0, "device": 0.5, "compute": 10.5}
    assert times.take()["compute"] == 0.0
    assert times.total["compute"] == 10.5


@pytest.mark.parametrize(
    ("data", "device", "is_worth_a_line"),
    [(3.0, 0.0, True), (1.5, 0.0, False), (0.5, 0.0, False), (3.0, 1.0, False)],
)
def test_waiting_for_data_is_worth_a_line_when_it_is_long_and_the_gpu_had_nothing_to_do(data, device, is_worth_a_line):
    compute = 7.0 if data > 1 else 0.2
    hint = data_hint({"data": data, "compute": compute, "device": device})
    assert (hint is not None) == is_worth_a_line
    assert not hint or hint.startswith("30% of the time")
