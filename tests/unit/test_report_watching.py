"""What a terminal shows of a training under way."""

import os
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from snaketune.report.charts.curves import gather
from snaketune.report.unfinished.watching import (
    Watched,
    clock,
    describe_training,
    describe_trainings,
    expected_end,
    find_trainings,
    sparkline,
)

SCRIPTS = Path(__file__).parents[2] / "scripts"


def line(step, loss=1.0, seconds=2.0):
    spent = {"data_seconds": 0.5, "compute_seconds": seconds - 0.5, "evaluation_seconds": 0, "checkpoint_seconds": 0}
    rates = {"tokens_per_second": 12345.6, "mfu": None, "memory_gb": 1.5}
    return {"step": step, "loss": loss, "learning_rate": 2e-4, "tokens": step * 100, **rates, **spent}


def test_step_loss_rate_and_the_clock_time_of_the_end_are_shown():
    lines = (*(line(step, 3.0 / step) for step in (10, 20, 30)), {"step": 30, "eval_loss": 0.25})
    name, figures, curve = describe_training(Watched("one lora-1", lines, 60, 1_000_000.0), 80)
    assert name == "one lora-1"
    assert figures.startswith("step 30/60 (50%)  loss 0.1000  held-out 0.2500  lr 2.00e-04  12,346 tokens/s  1.50 GB")
    assert figures.endswith(f"ends {clock(1_000_006.0)}")  # 30 steps at 10 steps in 2 s
    assert curve == "loss \u2588\u2583\u2581"


def test_the_rest_is_expected_at_the_rate_of_the_latest_intervals():
    slow = [line(step, seconds=100.0) for step in range(10, 110, 10)]
    fast = [line(step, seconds=1.0) for step in range(110, 410, 10)]
    assert expected_end(gather([*slow, *fast]), 500, 0.0) == pytest.approx(10.0)
    assert expected_end(gather(slow), None, 0.0) is None
    assert expected_end(gather([]), 500, 0.0) is None


@pytest.mark.parametrize(
    ("values", "width", "shown"),
    [
        ([0, 7], 9, "\u2581\u2588"),
        ([1, 1, 1], 9, "\u2581\u2581\u2581"),
        ([0.0] * 500 + [9.0] + [0.0] * 499, 10, "\u2581" * 5 + "\u2588" + "\u2581" * 4),
        ([float("nan"), 1.0, float("inf")], 9, "\u2581"),
        ([], 9, ""),
    ],
)
def test_a_sparkline_hides_no_spike(values, width, shown):
    assert sparkline(values, width) == shown


def test_no_line_is_wider_than_the_terminal():
    text = describe_trainings([Watched("x" * 300, tuple(line(s) for s in range(1, 500)), 900, 0.0)], 40, Path("work"))
    assert max(map(len, text.splitlines())) <= 40
    assert describe_trainings([], 80, Path("work")) == "No training is running in work."


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work" / "runs" / "abc123"
    folder.mkdir(parents=True)
    lines = b"".join(orjson.dumps(line(step)) + b"\n" for step in (10, 20))
    (folder / "metrics.jsonl").write_bytes(lines + b'{"step":30,"lo')  # the trainer is writing this moment
    return tmp_path / "work"


def test_a_training_that_lately_logged_is_found_and_its_half_written_line_is_left_out(work):
    (found,) = find_trainings(work, time.time())
    assert (found.name, found.lines[-1]["step"], found.max_steps) == ("abc123", 20, None)
    assert find_trainings(work, time.time() + 3600) == []


def test_the_steps_of_the_whole_training_are_known_from_a_checkpoint(work):
    checkpoint = work / "runs" / "abc123" / "checkpoint-20"
    checkpoint.mkdir()
    (checkpoint / "checkpoint.json").write_bytes(orjson.dumps({"step": 20, "max_steps": 40}))
    (found,) = find_trainings(work, time.time())
    assert found.max_steps == 40


def test_a_living_process_tells_which_run_it_trains(work, tmp_path):
    run = tmp_path / "results" / "runs" / "one" / "lora-1"
    run.mkdir(parents=True)
    (run / "plan.json").write_bytes(orjson.dumps({"steps": 60}))
    code = "import sys; print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, "train_model.py", "--adapter", str(run / "adapter")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        (work / "runs" / "abc123" / "lock").write_text(str(process.pid))
        (found,) = find_trainings(work, time.time() + 3600)
        process.stdin.close()
    assert (found.name, found.max_steps) == ("one lora-1", 60)
    assert find_trainings(work, time.time() + 3600) == []


def test_the_script_shows_what_there_is(work):
    command = [sys.executable, str(SCRIPTS / "watch_runs.py"), "--work", str(work), "--once"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"}, timeout=60)
    assert done.returncode == 0
    assert "step 20" in done.stdout


def test_watching_ends_when_its_reader_has_gone(work):
    command = [sys.executable, str(SCRIPTS / "watch_runs.py"), "--work", str(work), "--interval", "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == b""
