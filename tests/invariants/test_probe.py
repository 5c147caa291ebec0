"""A probe trains as a run does, measures it, and leaves nothing behind."""

import os

import pytest
from tiny_training import SETTINGS, configuration, write_splits

from snaketune.core.canonical import canonical_text, read_json
from snaketune.core.errors import TrainingError
from snaketune.train.probe import autotune, probe_record, probing
from snaketune.train.probe.probe_record import ProbeRequest, probe_identity, probe_of
from snaketune.train.probe.probing import FirstRows, ProbeInputs, probe
from snaketune.train.run import train


@pytest.fixture
def inputs(base, rows, tmp_path):
    return ProbeInputs(base, *rows, scratch=tmp_path / "scratch")


def test_a_probe_measures_a_real_training(inputs, rows):
    found = probe(inputs, configuration(), SETTINGS, steps=2, warmup_steps=1, repeats=3)
    assert (found.steps, found.measured_steps, len(found.rates)) == (7, 6, 3)
    assert min(found.rates) <= found.tokens_per_second <= max(found.rates)
    assert found.spread == pytest.approx((max(found.rates) - min(found.rates)) / found.tokens_per_second)
    assert 0 < found.tokens <= 7 * 2 * rows[0].row_length
    assert found.save_seconds > 0 and found.load_seconds > 0 and found.warmup_seconds > 0
    assert found.peak_memory_bytes > 50_000_000
    assert found.evaluation_tokens == int(rows[1].tokens.sum())


def test_a_probe_learns_what_a_training_of_so_many_steps_learns(base, rows, inputs, tmp_path):
    cfg = configuration(eval_steps=5)
    found = probe(inputs, cfg, SETTINGS, steps=2, warmup_steps=1, repeats=2)
    train(base, *rows, configuration(max_steps=5, eval_steps=5), SETTINGS, tmp_path / "run")
    lines = probing.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert found.losses == tuple(line["loss"] for line in lines if "loss" in line)
    assert found.held_out_loss == next(line["eval_loss"] for line in lines if "eval_loss" in line)


def test_a_probe_leaves_nothing_on_disk_in_the_environment_or_on_the_screen(inputs, tmp_path, capsys):
    before = dict(os.environ)
    probe(inputs, configuration(), SETTINGS, steps=1, warmup_steps=1, repeats=1)
    assert list(tmp_path.iterdir()) == []
    assert {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE")} == {
        name: value for name, value in before.items() if name.startswith("ACCELERATE")
    }
    assert capsys.readouterr().out == ""


def test_a_probe_ends_when_its_time_is_up_and_always_measures_once(inputs):
    found = probe(inputs, configuration(), SETTINGS, steps=1, warmup_steps=1, repeats=50, max_seconds=0.0)
    assert (found.steps, len(found.rates)) == (2, 1)
    assert found.save_seconds > 0


def test_a_probe_evaluates_as_many_rows_as_are_asked_for(inputs, rows):
    found = probe(inputs, configuration(), SETTINGS, steps=1, warmup_steps=1, repeats=1, held_out_rows=2)
    assert found.evaluation_tokens == int(rows[1].tokens[:2].sum())
    assert len(FirstRows(rows[0], 3)) == 3


def test_memory_that_runs_out_is_one_sentence_and_the_folder_is_gone(inputs, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(probing.ProbeClock, "on_step_end", fail)
    with pytest.raises(TrainingError, match="out of memory"):
        probe(inputs, configuration(), SETTINGS, steps=1, warmup_steps=1, repeats=1)
    assert list(tmp_path.iterdir()) == []


def test_a_repeat_is_as_long_as_asked_for(inputs):
    found = probe(
        inputs, configuration(), SETTINGS, steps=1, warmup_steps=3, repeats=2, repeat_seconds=0.3, held_out_rows=1
    )
    assert found.measured_steps > 4


def request(base, rows, folder, **changed):
    """A run on disk that asks for its probe."""
    keys = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    facts = {"parameters": 1, "dtype": "F32", "files": {"model/config.json": {"digest": "d"}}}
    given = {
        "cfg": configuration(**keys),
        "settings": SETTINGS,
        "model": facts,
        "model_folder": base,
        "pack": {"files": {"train.arrow": {"digest": "rows"}}},
        "rows_folder": rows[0].parent,
        "results": folder / "results",
        "scratch": folder / "work" / "probes",
        "tunes": False,
    }
    return ProbeRequest(**given | changed)


@pytest.fixture
def on_disk(tmp_path):
    write_splits(tmp_path)
    return (tmp_path / "train.arrow", tmp_path / "eval.arrow")


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(probe_record, "REPEAT_SECONDS", 0.05)
    monkeypatch.setattr(autotune, "TUNING_REPEAT_SECONDS", 0.05)


def test_a_probe_is_kept_for_every_run_that_it_holds_for(base, on_disk, tmp_path, quickly, monkeypatch):
    first = probe_of(request(base, on_disk, tmp_path))
    kept = read_json(tmp_path / "results" / "probes" / f"{first['identity']}.json")
    assert canonical_text(kept) == canonical_text(first)
    assert first["probe"]["start_seconds"] >= first["probe"]["load_seconds"]
    monkeypatch.setattr(probe_record, "probe", None)  # nothing is measured again
    slower = configuration(per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-5, seed=3)
    monkeypatch.setattr(probe_record, "noise", lambda record: "")  # whatever this machine is busy with
    assert probe_of(request(base, on_disk, tmp_path, cfg=slower)) == kept
    assert not list((tmp_path / "work" / "probes").glob("*"))


def test_another_setting_model_or_set_of_rows_is_another_probe(base, on_disk, tmp_path):
    def name(**changed):
        asked = request(base, on_disk, tmp_path, **changed)
        return probe_identity(asked.cfg, asked.settings, asked.model, asked.pack, {"gpu": "A"}, {"torch": "2"})

    others = [
        {"cfg": configuration(gradient_accumulation_steps=4)},
        {"settings": {**SETTINGS, "dataloader_num_workers": 2}},
        {"pack": {"files": {"train.arrow": {"digest": "others"}}}},
        {"model": {"parameters": 2, "dtype": "F32", "files": {}}},
    ]
    assert len({name(), *(name(**changed) for changed in others)}) == 5


def test_autotuning_measures_settings_that_train_the_same_and_changes_nothing(base, on_disk, tmp_path, quickly):
    asked = request(base, on_disk, tmp_path, tunes=True)
    before = canonical_text(asked.cfg)
    tuned = probe_of(asked)["autotune"]
    sizes = [(row["setting"]["micro_batch"], row["setting"]["accumulation"]) for row in tuned["candidates"]]
    assert sizes[:3] == [(2, 2), (1, 4), (4, 1)]
    assert all(row["verdict"] == "measured" and row["tokens_per_second"] > 0 for row in tuned["candidates"])
    assert all(row["planned_gb"] > 0 for row in tuned["candidates"])
    assert canonical_text(asked.cfg) == before
