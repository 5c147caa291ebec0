"""Facts beside a result never cost it: what fails or takes too long is a line."""

import subprocess
import threading

import pytest

from snaketune.train.monitoring import step_timers
from snaketune.train.monitoring.provenance import describe_git, describe_machine, noted


@pytest.fixture
def git(tmp_path, monkeypatch):
    """A stand-in for git that does what the test says."""

    def write(script):
        tool = tmp_path / "bin" / "git"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/bash\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")

    return write


def test_a_slow_git_is_not_waited_for(git, tmp_path, capsys):
    git("exec sleep 60")
    assert describe_git(tmp_path, 0.2) is None
    assert "the git state is not recorded" in capsys.readouterr().out


def test_a_child_of_git_that_holds_its_output_is_not_waited_for(git, tmp_path, capsys):
    git("sleep 5 & exit 0")
    assert describe_git(tmp_path, 0.2) is None
    assert "the git state is not recorded" in capsys.readouterr().out


def test_no_repository_needs_no_word(git, tmp_path, capsys):
    git("exit 128")
    assert describe_git(tmp_path) is None
    assert capsys.readouterr().out == ""


def test_a_hook_of_another_repository_is_not_asked(tmp_path, monkeypatch):
    for name in ("here", "there"):
        folder = tmp_path / name
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
        identity = ["-c", "user.name=one", "-c", "user.email=one@example.org"]
        subprocess.run(["git", "-C", str(folder), *identity, "commit", "-qm", name, "--allow-empty"], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "there" / ".git"))
    here = describe_git(tmp_path / "here")
    monkeypatch.delenv("GIT_DIR")
    assert here == describe_git(tmp_path / "here") != describe_git(tmp_path / "there")


def test_an_error_of_a_driver_is_a_line(monkeypatch, capsys):
    class NVMLError(Exception):
        pass

    def fail(*arguments):
        raise NVMLError("Not Supported")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for name in ("utilization", "get_device_properties", "max_memory_allocated"):
        monkeypatch.setattr(f"torch.cuda.{name}", fail)
    step_timers._has_utilization.cache_clear()
    assert step_timers.gpu_utilization() is None
    assert step_timers.gpu_utilization() is None
    assert capsys.readouterr().out.count("GPU utilisation is not recorded (NVMLError: Not Supported)") == 1
    assert describe_machine()["gpu"] is None
    assert "gpu_bytes" not in step_timers.peak_memory_facts()
    step_timers._has_utilization.cache_clear()


def test_what_never_answers_is_left_behind():
    never = threading.Event()
    assert noted("a fact", never.wait, 0.05) is None
    assert noted("a fact", lambda: 3, 5) == 3
    never.set()
