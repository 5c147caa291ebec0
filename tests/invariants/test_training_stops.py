"""What stops a training: values that are not finite, a diverging loss, too little memory, data that do not fit."""

import re

import numpy as np
import pytest
import torch
from tiny_training import SETTINGS, VOCABULARY, Documents, configuration, digest, lines, packed
from transformers import TrainerCallback

from snaketune.core.errors import ConfigError, DataError, TrainingError
from snaketune.train.device import prepare_arithmetic
from snaketune.train.run import build_trainer, train
from snaketune.train.trainer import PackedTrainer


class Poison(TrainerCallback):
    """Make the adapter not-a-number after step 5, as an overflow would."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 5:
            next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))


class Explode(TrainerCallback):
    """Make the gradient of step 3 infinite; its loss stays finite."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 2:
            next(p for p in model.parameters() if p.requires_grad).register_hook(lambda gradient: gradient + np.inf)


def poisoned(base, rows, work, callback, **settings) -> tuple[PackedTrainer, list[list[int]]]:
    """A trainer with a fault, and the list that the row numbers of its batches go to."""
    cfg = configuration(logging_steps=10)
    trainer = build_trainer(base, *rows, cfg, SETTINGS | settings, work, prepare_arithmetic(1))
    trainer.add_callback(callback)
    batches, collate = [], trainer.data_collator

    def record(indices):
        batches.append(indices)
        return collate(indices)

    trainer.data_collator = record
    return trainer, batches


def checkpoints(work) -> list[str]:
    return sorted(path.name for path in work.glob("checkpoint-*"))


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step_and_names_it(base, rows, tmp_path):
    trainer, batches = poisoned(base, rows, tmp_path, Poison())
    with pytest.raises(TrainingError, match=r"step 6: the loss is nan at learning rate 0\.00708 in rows") as caught:
        trainer.train()
    named = re.search(r"in rows ([\d, ]+) of train.arrow", str(caught.value)).group(1)
    assert [int(row) for row in named.split(", ")] == batches[5]
    assert checkpoints(tmp_path) == ["checkpoint-4"]
    assert not any(tmp_path.glob(".partial/*"))


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(base, rows, tmp_path):
    trainer, _ = poisoned(base, rows, tmp_path, Explode())
    with pytest.raises(TrainingError, match="step 3: the gradient norm is"):
        trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_weights_that_are_not_finite_are_never_saved(base, rows, tmp_path):
    trainer, _ = poisoned(base, rows, tmp_path, Poison(), save_steps=5)
    with pytest.raises(TrainingError, match="step 5: a trained weight is not finite"):
        trainer.train()
    assert checkpoints(tmp_path) == []


def test_a_diverging_loss_stops_the_run_which_goes_on_with_a_higher_limit(base, rows, tmp_path):
    whole = train(base, *rows, configuration(), SETTINGS, tmp_path / "whole")
    with pytest.raises(TrainingError, match=r"the loss diverges.*train.max_loss_increase allows 1e-06"):
        train(base, *rows, configuration(), SETTINGS | {"max_loss_increase": 1e-6}, tmp_path / "parts")
    resumed = train(base, *rows, configuration(), SETTINGS | {"max_loss_increase": 5.0}, tmp_path / "parts")
    assert digest(resumed) == digest(whole)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes"),
    ],
)
def test_out_of_memory_shows_the_plan_and_the_next_smaller_setting(base, rows, tmp_path, monkeypatch, error):
    def exhaust(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(PackedTrainer, "training_step", exhaust)
    with pytest.raises(TrainingError, match=r"out of memory: the run needs .* GB of RAM \(estimated\)") as caught:
        train(base, *rows, configuration(), SETTINGS, tmp_path)
    assert re.search(r"weights|context", str(caught.value))
    assert re.search(r"set (train|tokens)\.\w+ to", str(caught.value)), caught.value


def test_another_error_is_not_taken_for_one_of_memory(base, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(PackedTrainer, "training_step", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        train(base, *rows, configuration(), SETTINGS, tmp_path)


def test_a_token_that_the_model_does_not_know_is_named_before_training(base, rows, tmp_path):
    documents = Documents(60)
    documents._ids[0][3] = VOCABULARY
    wrong = packed(tmp_path / "wrong.arrow", documents)
    with pytest.raises(DataError, match=rf"train.arrow, row \d+: token id {VOCABULARY} is not in .* of {VOCABULARY}"):
        train(base, wrong, rows[1], configuration(), SETTINGS, tmp_path)


def test_no_rows_are_refused(base, rows, tmp_path):
    with pytest.raises(DataError, match="holds no rows"):
        train(base, packed(tmp_path / "none.arrow", Documents(0)), rows[1], configuration(), SETTINGS, tmp_path)


def test_a_batch_larger_than_the_data_trains_on_all_of_them_and_says_so(base, rows, tmp_path, capsys):
    few = packed(tmp_path / "few.arrow", Documents(6))
    cfg = configuration(per_device_train_batch_size=64, max_steps=-1, num_train_epochs=2)
    finished = train(base, few, rows[1], cfg, SETTINGS, tmp_path)
    assert finished.steps == 2
    assert lines(tmp_path)[-1]["tokens"] == 2 * int(few.tokens.sum())
    assert "takes 64 rows (train.per_device_train_batch_size 64" in capsys.readouterr().out


@pytest.mark.parametrize("sink", ["tensorboard", "trackio", "wandb"])
def test_a_missing_sink_is_named_before_anything_is_loaded(base, rows, tmp_path, sink, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"train.report_to: {sink} is not installed"):
        train(tmp_path / "no model", *rows, configuration(), SETTINGS | {"report_to": [sink]}, tmp_path)
