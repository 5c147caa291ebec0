"""Being told to stop: by a signal, by the end of the workflow, with nobody left to read what is printed."""

import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from snaketune.core import cli
from snaketune.core.errors import TrainingError
from snaketune.train.signals import StopRequest


def end_step(stop, step=3):
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop.on_step_end(None, SimpleNamespace(global_step=step), control)
    return control.should_save, control.should_training_stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_asks_for_a_checkpoint_and_the_end(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert end_step(stop) == (False, False)
        os.kill(os.getpid(), number)
        assert end_step(stop) == (True, True)
        assert stop.reason == f"{number.name} received"
    assert signal.getsignal(number) == before


def test_the_second_ctrl_c_does_not_wait():
    with StopRequest(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_before_the_first_step_there_is_nothing_to_save():
    with StopRequest() as stop:
        stop.on_train_begin(None, SimpleNamespace(global_step=7), None)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(TrainingError, match=r"SIGTERM received before .* continue from step 7"):
            stop.on_step_begin(None, SimpleNamespace(global_step=7), None)


def test_an_orphan_waits_until_training_has_saved():
    left = []
    with StopRequest() as stop:
        orphan = threading.Thread(target=lambda: (cli.on_orphaned(), left.append(1)))
        orphan.start()
        deadline = time.monotonic() + 10
        while not stop and time.monotonic() < deadline:
            time.sleep(0.005)
        assert end_step(stop) == (True, True)
        assert not left
    orphan.join(10)
    assert left == [1]
    assert cli.on_orphaned is None


def test_a_reader_that_has_died_does_not_keep_training_from_saving(monkeypatch):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with StopRequest():
            os.close(reading)
            print("nobody reads this", flush=True)
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)
