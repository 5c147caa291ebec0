"""Samples and weights: seeded, stable, counted, and on the training side alone."""

import numpy as np
import orjson
import pytest
from data_files import source

from snaketune.core.atomic import writing
from snaketune.core.errors import DataError
from snaketune.data.records.accounting import summary_of
from snaketune.data.records.reading import read_records
from snaketune.data.records.reading_policy import ReadingPolicy, RecordLimits
from snaketune.data.split.sampling import repetitions
from snaketune.storage.copy_targets import NamedSource


def lines(numbers):
    return b"".join(b'{"prompt":"%d","completion":"b"}\n' % number for number in numbers)


def given(path, numbers, part=0, **options):
    made, place = source(path, lines(numbers))
    return NamedSource(made.path, made.bytes, made.digest, options, part), place


def read(folder, *sources, limit=None, seed=0, threads=1):
    with writing(folder / "records.jsonl") as records, writing(folder / "quarantine.jsonl") as quarantine:
        kept_at, limits = folder / "kept", RecordLimits(limit, seed)
        facts = read_records(sources, ReadingPolicy(), records, quarantine, kept_at, threads, (), limits)
    made = [orjson.loads(line) for line in (folder / "records.jsonl").read_bytes().splitlines()]
    return facts, [int(record["messages"][0]["content"]) for record in made]


def test_a_sample_is_exact_seeded_in_order_and_counted(tmp_path):
    facts, kept = read(
        tmp_path, given(tmp_path / "a", range(1000), max_records=100), given(tmp_path / "b", range(50), 1)
    )
    assert len(kept) == 150
    assert kept[:100] == sorted(kept[:100])
    assert kept[100:] == list(range(50))
    assert (facts["records"], facts["not_sampled"]) == (150, 900)
    assert [entry.get("not_sampled") for entry in facts["sources"]] == [900, 0]
    assert "  left out by max_records: 900 records." in summary_of(facts)
    assert read(tmp_path, given(tmp_path / "a", range(1000), max_records=100), seed=1)[1] != kept[:100]


def test_a_sample_does_not_depend_on_the_order_and_grows_little_with_the_source(tmp_path):
    _, kept = read(tmp_path, given(tmp_path / "a", range(1000), max_records=100))
    _, turned = read(tmp_path, given(tmp_path / "a", range(999, -1, -1), max_records=100))
    assert sorted(turned) == kept
    _, grown = read(tmp_path, given(tmp_path / "a", range(1100), max_records=100))
    assert len(set(grown) & set(kept)) > 75


def test_files_of_one_source_share_its_limit_and_all_share_that_of_the_data(tmp_path):
    files = [given(tmp_path / name, range(n, n + 100), max_records=60) for name, n in (("a", 0), ("b", 100))]
    facts, kept = read(tmp_path, *files)
    assert len(kept) == 60
    assert sum(entry["not_sampled"] for entry in facts["sources"]) == 140
    assert len(read(tmp_path, *files, limit=25)[1]) == 25
    assert len(read(tmp_path, *files, limit=500)[1]) == 60


@pytest.mark.parametrize(("weight", "low", "high"), [(1, 1, 1), (2, 2, 2), (0.5, 0.45, 0.55), (2.25, 2.2, 2.3)])
def test_a_weight_repeats_or_thins_by_a_seeded_rule(weight, low, high):
    places = np.zeros(10_000, np.int32), np.arange(1, 10_001)
    times = repetitions(*places, [weight], 0)
    assert low <= times.mean() <= high
    assert set(times.tolist()) <= {int(weight), int(weight) + 1}
    assert (times == repetitions(*places, [weight], 0)).all()
    if weight % 1:
        assert (times != repetitions(*places, [weight], 1)).any()


def test_weights_repeat_training_records_alone_and_are_counted(tmp_path):
    from snaketune.data.similarity.removal import LineIndex
    from snaketune.data.split.split_plan import SplitPolicy, plan_sides
    from snaketune.data.split.splitting import write_splits

    facts, _ = read(tmp_path, given(tmp_path / "a", range(400)), given(tmp_path / "b", range(1000, 1400), 1))
    records = tmp_path / "records.jsonl"
    index = LineIndex.read(records)
    plan = plan_sides(records, SplitPolicy(0.2, 0), [], index, tmp_path)
    times = plan.times(index, {"weights": [0.25, 3.0], "seed": 0})
    with open(tmp_path / "train", "wb") as train, open(tmp_path / "eval", "wb") as held_out:
        write_splits(plan.side, records, train, held_out, times)
    made = {name: (tmp_path / name).read_bytes().splitlines() for name in ("train", "eval")}
    told = plan.facts(SplitPolicy(0.2, 0), index.sources, times)
    assert not set(made["train"]) & set(made["eval"])
    assert len(made["eval"]) == len(set(made["eval"])) == told["eval"]
    assert len(made["train"]) == told["train"] == sum(told["by_source"]["train"])
    assert told["train"] + told["eval"] + told["weight_left_out"] - told["weight_added"] == facts["records"]
    assert all(made["train"].count(line) == 3 for line in made["train"] if line.startswith(b'{"source":1'))
    with pytest.raises(DataError, match="leave no record to train on"):
        plan.times(index, {"weights": [1e-9, 1e-9], "seed": 0})
