"""Told to stop by any signal, a workflow ends with a checkpoint and a sentence, and the same command goes on."""

import json
import os
import re
import signal
import subprocess
import time

import psutil
import pytest
from project import CONFIG, REAL_PROGRAMS, Project, record

LONG = CONFIG.replace("max_steps: 8", "max_steps: 100000").replace("save_steps: 2", "save_steps: 100000")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose data, model and plan are made, and whose training would take very long."""
    project = Project(tmp_path_factory.mktemp("signals"), LONG)
    project.raw.write_text("".join(record(number) + "\n" for number in range(60)))
    project.run("plan")
    return project


def start(project, log):
    with open(log, "wb") as file:
        return subprocess.Popen(
            project.command(programs=REAL_PROGRAMS),
            cwd=project.folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def last_step(project):
    """The step of the last line that the trainer has logged."""
    lines = [line for path in project.folder.glob("work/runs/*/metrics.jsonl") for line in path.open()]
    steps = [json.loads(line)["step"] for line in lines if line.endswith("\n")]
    return max(steps, default=0)


def wait_for_a_step(project, process, after):
    """Wait until the trainer has logged a step after the step ``after``."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if last_step(project) > after:
            return
        time.sleep(0.05)
    raise TimeoutError("no step")


def members(session):
    """The processes of a session that live."""
    living = (process for process in psutil.process_iter() if process.status() != psutil.STATUS_ZOMBIE)
    return [process.pid for process in living if os.getsid(process.pid) == session]


@pytest.mark.parametrize(
    ("number", "send"),
    [
        (signal.SIGTERM, os.kill),
        (signal.SIGTERM, os.killpg),
        (signal.SIGHUP, os.killpg),
        pytest.param(signal.SIGINT, os.kill, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, os.killpg, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, os.kill, marks=pytest.mark.slow),
    ],
    ids=["TERM-alone", "TERM-group", "HUP-group", "INT-alone", "INT-group", "HUP-alone"],
)
def test_a_signal_ends_in_a_checkpoint_and_a_sentence(project, tmp_path, number, send):
    before = set(project.folder.glob("work/runs/*/checkpoint-*"))
    reached = last_step(project)
    process = start(project, tmp_path / "log")
    try:
        wait_for_a_step(project, process, reached)
        send(process.pid, number)
        status = process.wait(timeout=60)
        output = (tmp_path / "log").read_text()
        assert status not in (0, -number), output[-3000:]
        assert f"{number.name} received" in output
        assert "Traceback" not in output
        (saved,) = re.findall(r"step \d+ of 100000 is saved in (\S+), nothing is published", output)[-1:]
        assert project.folder / saved in set(project.folder.glob("work/runs/*/checkpoint-*")) - before
        assert members(process.pid) == []
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
