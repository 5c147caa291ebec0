"""A disk that fills up under what is written: one sentence with path and bytes, and nothing left that keeps it full."""

import errno
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from snaketune.core import atomic
from snaketune.core.cached_state import write_state
from snaketune.core.disk_space import is_full_disk, require_room
from snaketune.core.errors import DiskFullError
from snaketune.storage.copying import copy_verified
from snaketune.workflow.preflight import Preflight
from snaketune.workflow.startup import WorkflowFolders

TORCH = "[enforce fail at inline_container.cc:664] . unexpected pos 704 vs 598"
SAFETENSORS = "Error while serializing: I/O error: No space left on device (os error 28)"
STREAM = "basic_ios::clear: iostream error"


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("this user cannot mount a small disk: the fakes of this file still run")
    yield place
    subprocess.run(["umount", place], check=True)


def test_room_is_asked_for_before(tmp_path):
    require_room(tmp_path / "not" / "there", 1, "the merged model")
    with pytest.raises(DiskFullError, match=r"x: the merged model needs 1,000,[0,]+ bytes and [\d,]+ are"):
        require_room(tmp_path / "x", 10**18, "the merged model")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (RuntimeError(SAFETENSORS), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), r"your quota on this disk is used up \(`quota -s` shows it\)"),
        (RuntimeError("Disk quota exceeded (os error 122)"), "your quota on this disk is used up"),
    ],
)
def test_a_full_disk_is_one_sentence_whoever_writes(tmp_path, error, reason):
    with (
        pytest.raises(DiskFullError, match=rf"{reason}.*: \.merged\S* needs more than 1,000 bytes, of which 1,000"),
        atomic.writing_directory(tmp_path / "merged") as folder,
    ):
        (folder / "model.safetensors").write_bytes(b"1" * 1000)
        raise error
    with pytest.raises(DiskFullError), atomic.writing(tmp_path / "x"):
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [TORCH, STREAM])
def test_what_may_mean_a_full_disk_means_it_only_on_one(tmp_path, monkeypatch, text):
    assert not is_full_disk(RuntimeError(text), [tmp_path])
    monkeypatch.setattr("snaketune.core.disk_space.free_bytes", lambda place: 0)
    assert is_full_disk(RuntimeError(text), [tmp_path])
    assert not is_full_disk(RuntimeError("shapes do not match"), [tmp_path])


def test_another_error_stays_what_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic.writing(tmp_path / "x"):
        raise ZeroDivisionError


def test_a_real_disk_fills_up_under_files_and_folders(small_disk):
    atomic.write_bytes(small_disk / "kept", b"1" * 1_000_000)
    with pytest.raises(DiskFullError, match=rf"{small_disk}: the disk is full: \.big\S* needs more than"):
        atomic.write_bytes(small_disk / "big", b"1" * 4_000_000)
    with pytest.raises(DiskFullError), atomic.writing_directory(small_disk / "merged") as folder:
        (folder / "a").write_bytes(b"1" * 4_000_000)
    assert [path.name for path in small_disk.iterdir()] == ["kept"]
    atomic.write_bytes(small_disk / "fits", b"1" * 500_000)


def test_a_disk_without_inodes_is_told_from_a_full_one(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=4", "none", place]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        for number in range(3):
            (place / str(number)).touch()
        sentence = r"disk\S*: its disk is out of inodes, although [\d,]+ bytes are free \(`df -i`"
        with pytest.raises(DiskFullError, match=sentence):
            atomic.write_bytes(place / "x", b"x")
        with pytest.raises(DiskFullError, match=sentence), atomic.writing_directory(place / "folder"):
            pass
        with pytest.raises(DiskFullError, match=sentence):
            require_room(place / "folder", 1, "the merged model")
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_tmpdir_is_a_sentence_at_the_start(small_disk, tmp_path, monkeypatch):
    with open(small_disk / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(small_disk))
    job_table = SimpleNamespace(
        results="results",
        scratch=None,
        runs=[],
        in_use=lambda: ([], []),
        wanted_files=lambda: [],
        page="results/{}.html".format,
    )
    with pytest.raises(DiskFullError, match=rf"{small_disk}: the workflow needs 1,048,576 bytes and 0 are free"):
        WorkflowFolders(job_table, tmp_path / "work", "config.yaml").begin()
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]


def test_whoever_can_do_without_a_file_goes_on_when_the_disk_is_full(small_disk, capsys):
    with open(small_disk / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free)
    look = Preflight(None, small_disk / "first_look.json")
    look._remember({"x": 1}, "b" * 100_000)
    for remember in (lambda: write_state(small_disk / "digests.json", {"a": "b" * 100_000}), look.save):
        remember()
        assert ".json cannot be written (No space left on device)" in capsys.readouterr().err
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_real_disk_fills_up_under_a_copy(small_disk, tmp_path):
    from snaketune.core.digests import file_digest

    source = tmp_path / "source.jsonl"
    source.write_bytes(os.urandom(4_000_000))
    with pytest.raises(DiskFullError, match="the copy needs 4,000,000 bytes, of which"):
        copy_verified(source, small_disk / "copy" / "source.jsonl", file_digest(source), lambda size: None)
    assert list((small_disk / "copy").iterdir()) == []


def test_libraries_that_write_by_themselves_are_understood(small_disk):
    import torch
    from safetensors.torch import save_file

    def archive(path):
        torch.save(torch.zeros(10**6), path)

    def tensors(path):
        save_file({"a": torch.zeros(10**6)}, path)

    for save in (archive, tensors):
        with pytest.raises(DiskFullError), atomic.writing_directory(small_disk / "model") as folder:
            save(folder / "model.safetensors")
        assert list(small_disk.iterdir()) == []


SCRIPT = """
from snaketune.core.cli import run
def main():
    raise {error}
run(main)
"""


@pytest.mark.parametrize(
    "error",
    [
        "OSError(28, 'No space left on device')",
        "RuntimeError('I/O error: No space left on device (os error 28)')",
        "OSError(28, 'No space left on device', '/big/file')",
    ],
)
def test_a_script_ends_in_a_sentence(tmp_path, error):
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", SCRIPT.format(error=error)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 6) and done.stderr.count("\n") == 1, done.stderr
    assert "free space" in done.stderr and ("/big/file" in done.stderr) == ("/big/file" in error)
