"""The benchmark of the wait for a first step: it reads what a workflow says, and ends it then."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def first_step():
    # By its path: another module of the tests has that name.
    path = Path(__file__).parents[2] / "benchmarks" / "first_step.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_the_first_step", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        spec.loader.exec_module(module)
    return module


def saying(*lines, then=""):
    shown = "; ".join(f"print({line!r}, flush=True)" for line in lines)
    return [sys.executable, "-c", f"{shown}; {then}"]


def test_what_happens_until_the_first_step_is_timed_and_the_rest_is_ended(first_step, tmp_path):
    said = ["Job 3: Planning", "Finished jobid: 3 (Rule: plan_run)", "step 1/60  loss 3.5", "step 2/60  loss 3.4"]
    found = list(first_step.until_first_step(saying(*said, then="import time; time.sleep(600)"), tmp_path))
    assert [what for what, _, _ in found] == ["plan_run ends", "step 1/60"]
    assert all(0 < wall < 600 and 0 <= cpu < 600 for _, wall, cpu in found)


def test_a_workflow_that_ends_before_says_what_it_said(first_step, tmp_path):
    with pytest.raises(SystemExit, match="no such model"):
        list(first_step.until_first_step(saying("model.name_or_path: no such model", then="pass"), tmp_path))


def test_processor_time_is_that_of_a_session(first_step):
    before = first_step.cpu_seconds(os.getsid(0))
    sum(range(4_000_000))
    assert first_step.cpu_seconds(os.getsid(0)) > before
