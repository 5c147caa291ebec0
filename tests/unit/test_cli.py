"""What users see of a script that fails, and that no job outlives its workflow."""

import os
import signal
import socket
import subprocess
import sys

import pytest

SCRIPT = """
import sys, time
from snaketune.core.cli import run
from snaketune.core.errors import DataError
def main():
    if sys.argv[1] == "data": raise DataError("a.jsonl, line 3: empty: give it text.")
    if sys.argv[1] == "disk": raise OSError(28, "No space left on device", "/big/file")
    if sys.argv[1] == "bug": raise ZeroDivisionError("x")
    if sys.argv[1] == "import":
        print("working", flush=True)
        try: time.sleep(60)
        except KeyboardInterrupt: raise ImportError("as C code does it") from None
    if sys.argv[1] == "print":
        while True: print("x" * 10000, flush=True)
    print("working", flush=True); time.sleep(60)
run(main)
"""


def start(argument, parent=""):
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "SNAKETUNE_PARENT": parent}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, argument], stdout=-1, stderr=-1, text=True, env=environment)


def test_an_error_of_the_user_is_one_sentence():
    job = start("data")
    _, error = job.communicate()
    assert error == "DataError: a.jsonl, line 3: empty: give it text.\n"
    assert job.returncode == 3


def test_a_full_disk_is_named():
    job = start("disk")
    _, error = job.communicate()
    assert error.count("\n") == 1
    assert "No space left on device at /big/file" in error
    assert job.returncode == 1


def test_a_defect_keeps_its_traceback():
    job = start("bug")
    _, error = job.communicate()
    assert "Traceback" in error


def test_a_job_ends_when_its_workflow_is_killed():
    workflow = subprocess.Popen(["sleep", "60"])
    job = start("work", f"{socket.gethostname()}:{workflow.pid}")
    assert job.stdout.readline() == "working\n"
    workflow.send_signal(signal.SIGKILL)
    workflow.wait()
    assert job.wait(timeout=20) == 75


def test_a_workflow_on_another_host_is_not_watched():
    job = start("work", "another-host:1")
    assert job.stdout.readline() == "working\n"
    assert job.poll() is None
    job.kill()
    job.wait()


@pytest.mark.parametrize("argument", ["work", "import"])
def test_ctrl_c_is_one_sentence(argument):
    job = start(argument)
    assert job.stdout.readline() == "working\n"
    job.send_signal(signal.SIGINT)
    _, error = job.communicate(timeout=20)
    assert error == "Interrupted: run the same command to continue from what is finished.\n"
    assert job.returncode == 130


def test_a_reader_that_has_gone_is_no_error():
    job = start("print")
    job.stdout.read(1)
    job.stdout.close()
    assert job.stderr.read() == ""
    assert job.wait(timeout=20) == 128 + signal.SIGPIPE
