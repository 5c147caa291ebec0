"""Each case in a process of its own, once: what is finished is not measured again."""

import os
import signal
from pathlib import Path

import pytest

from snaketune.ablate import running
from snaketune.ablate.case import Queue, own_rate
from snaketune.core.errors import TrainingError


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "IMPORTED_ONCE", [])
    return running.FreshProcesses(tmp_path)


def count(path: str) -> dict:
    with Path(path).open("a") as file:
        file.write("x")
    return {"process": os.getpid()}


def refuse() -> dict:
    raise TrainingError("out of memory: take less.")


def die() -> dict:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def test_a_case_runs_in_its_own_process_and_only_once(fresh, tmp_path):
    calls = tmp_path / "calls"
    first, again = fresh.result("a", count, str(calls)), fresh.result("a", count, str(calls))
    other = running.FreshProcesses(tmp_path).result("a", count, str(calls))  # after an interruption
    assert first["value"] == again["value"] == other["value"]
    assert first["value"]["process"] != os.getpid()
    assert (first["kept"], again["kept"], other["kept"]) == (False, True, True)
    assert calls.read_text() == "x"
    assert fresh.result("b", count, str(calls))["value"] != first["value"]


def test_what_cannot_be_had_is_a_sentence(fresh):
    assert fresh.result("a", refuse)["failed"] == "out of memory: take less."
    assert "SIGKILL" in fresh.result("b", die)["failed"]


def test_the_rate_is_that_of_the_time_that_was_left():
    assert own_rate([100.0, 100.0], 0.0) == 100.0
    assert own_rate([100.0, 50.0], 0.5) == pytest.approx(2 * 200 / 3)
    assert 0 <= Queue().share() < 1
