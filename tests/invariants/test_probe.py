"""A probe trains as a run does, measures it, and leaves nothing behind."""

import os

import pytest
from tiny_training import SETTINGS, configuration

from snaketune.common.errors import TrainingError
from snaketune.train import probing
from snaketune.train.probing import FirstRows, ProbeInputs, probe
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

    monkeypatch.setattr(probing.Watch, "on_step_end", fail)
    with pytest.raises(TrainingError, match="memory ran out"):
        probe(inputs, configuration(), SETTINGS, steps=1, warmup_steps=1, repeats=1)
    assert list(tmp_path.iterdir()) == []


def test_a_repeat_is_as_long_as_asked_for(inputs):
    found = probe(
        inputs, configuration(), SETTINGS, steps=1, warmup_steps=3, repeats=2, repeat_seconds=0.3, held_out_rows=1
    )
    seconds = found.measured_steps / 2 * found.tokens / found.steps / found.tokens_per_second
    assert found.measured_steps > 4
    assert 0.1 < seconds < 1.5
