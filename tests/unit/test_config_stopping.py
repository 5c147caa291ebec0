"""The end of a workflow by a signal: no lock is waited for in the handler, and each script is told once."""

import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from snaketune.workflow import snakemake_internals, stopping
from snaketune.workflow.snakemake_internals import Snakemake

# Starts itself once more, as a training does its processes, and ends when told, with its child.
SCRIPT = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, __file__, "child"]) if len(sys.argv) == 1 else None
def end(number, frame):
    if child: child.wait() if child.poll() is not None else child.kill()
    sys.exit(3)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def ending(tmp_path, monkeypatch):
    """The end of a workflow whose scheduler is at work, without the exit of this process."""
    exits = []
    monkeypatch.setattr(stopping.os, "_exit", exits.append)
    monkeypatch.setattr(stopping, "EXIT_SECONDS", 0.3)
    scheduler = SimpleNamespace(_lock=threading.Lock(), _open_jobs=threading.Semaphore(0), _user_kill=None)
    workflow = SimpleNamespace(_scheduler=scheduler, local_exec=True)
    (tmp_path / "scripts").mkdir()
    ending = stopping._Ending(Snakemake(workflow), tmp_path / "scripts")
    ending.exits, ending.scheduler, ending.workflow = exits, scheduler, workflow
    return ending


def wait_until(true, seconds=20):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_lock_of_the_interrupted_code_is_not_waited_for(ending):
    with ending.scheduler._lock:
        ending.begin(signal.SIGTERM)  # Snakemake's own handler would never return
        assert ending.scheduler._user_kill is None
    wait_until(lambda: ending.exits)
    assert ending.scheduler._user_kill == "graceful"
    assert ending.scheduler._open_jobs.acquire(blocking=False)
    assert ending.exits == [128 + signal.SIGTERM]


def test_jobs_of_a_cluster_are_left_to_snakemake_to_cancel(ending):
    ending.workflow.local_exec = False
    with pytest.raises(SystemExit) as left:
        ending.begin(signal.SIGHUP)
    assert left.value.code == 128 + signal.SIGHUP
    assert ending.scheduler._user_kill is None


def test_a_process_of_a_cluster_s_job_waits_for_it(ending, monkeypatch):
    monkeypatch.setattr(snakemake_internals.JobScheduler, "exit_gracefully", None)
    before = signal.getsignal(signal.SIGTERM)
    stopping.end_on_signals(Snakemake(SimpleNamespace(is_main_process=False)), ending._scripts)
    assert signal.getsignal(signal.SIGTERM) is before
    with ending.scheduler._lock:
        snakemake_internals.JobScheduler.exit_gracefully(ending.scheduler, signal.SIGTERM, None)
    wait_until(lambda: ending.scheduler._user_kill == "graceful")
    assert ending.exits == []


def test_the_first_process_of_a_script_is_told_and_waited_for(ending, tmp_path):
    script = tmp_path / "scripts" / "train_model.py"
    script.write_text(SCRIPT)
    command = f"trap : TERM; {sys.executable} scripts/train_model.py 2>&1 | (trap '' TERM; exec cat)"
    shell = subprocess.Popen(["bash", "-c", command], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert [shell.stdout.readline(), shell.stdout.readline()] == ["ready\n", "ready\n"]
    (job,) = ending._jobs()
    assert job.cmdline()[1:] == ["scripts/train_model.py"]
    ending.begin(signal.SIGTERM)
    wait_until(lambda: ending.exits)
    assert not psutil.pid_exists(job.pid) or job.status() == psutil.STATUS_ZOMBIE
    shell.communicate(timeout=20)


def test_a_second_signal_changes_nothing_but_the_second_ctrl_c_ends_at_once(ending, monkeypatch):
    # Other tests' servers are children of this process, too.
    monkeypatch.setattr(stopping.psutil, "Process", lambda: SimpleNamespace(children=lambda recursive: []))
    ending.begin(signal.SIGTERM)
    ending.begin(signal.SIGTERM)
    ending.begin(signal.SIGINT)
    assert ending.exits == []
    wait_until(lambda: ending.exits)
    hasty = stopping._Ending(ending._snakemake, ending._scripts)
    hasty.begin(signal.SIGINT)
    hasty.begin(signal.SIGINT)
    assert ending.exits[1] == 128 + signal.SIGINT
    wait_until(lambda: len(ending.exits) == 3)
