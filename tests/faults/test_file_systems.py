"""Disks without links, locks or flushing, places that cannot be written to, and a clock that went back."""

import errno
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disks import read_only, without_flushing, without_links, without_locks

from snaketune.core import atomic
from snaketune.core.errors import ConfigError, DataError
from snaketune.core.locks import try_lock, wait_for_lock
from snaketune.core.manifest import describe_files
from snaketune.core.processes import this_place, this_process
from snaketune.workflow.lifecycle import finish_run, lock_or_explain
from snaketune.workflow.results.latest_link import drop_dangling, latest_folder, point_latest
from snaketune.workflow.results.leftovers import PARTIAL
from snaketune.workflow.write_checks import (
    check_apart,
    check_clock,
    check_folder,
    check_own_folders,
    outside_notes,
    try_folder,
    unwritable_notes,
    usable_path,
)

GONE = 2**22 - 3  # above the largest pid of most machines, and of this one while the test runs


@pytest.fixture
def run_folder(tmp_path):
    for name in ("one-1", "two-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.html").touch()
    return tmp_path


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_links_a_text_names_the_current_folder(run_folder, monkeypatch, code):
    without_links(monkeypatch, code)
    point_latest(run_folder, "one-1")
    point_latest(run_folder, "two-2")
    assert not (run_folder / "latest").exists()
    assert (run_folder / "latest.txt").read_text() == "two-2\n"
    assert latest_folder(run_folder) == run_folder / "two-2"
    (run_folder / "two-2" / "report.html").unlink()
    (run_folder / "two-2").rmdir()
    drop_dangling(run_folder)
    assert not (run_folder / "latest.txt").exists()


def test_a_disk_that_has_links_again_gets_the_link(run_folder, monkeypatch):
    with monkeypatch.context() as patch:
        without_links(patch)
        point_latest(run_folder, "one-1")
    point_latest(run_folder, "two-2")
    assert (run_folder / "latest").resolve() == run_folder / "two-2"
    assert not (run_folder / "latest.txt").exists()
    with monkeypatch.context() as patch:
        without_links(patch)
        point_latest(run_folder, "one-1")
    assert not (run_folder / "latest").is_symlink()
    assert latest_folder(run_folder) == run_folder / "one-1"


def test_a_copy_that_stands_where_the_link_was_is_moved_aside(run_folder, capsys):
    (run_folder / "latest").mkdir()
    (run_folder / "latest" / "notes.txt").write_text("mine")
    point_latest(run_folder, "one-1")
    assert (run_folder / "latest").is_symlink()
    assert (run_folder / "latest.copy-1" / "notes.txt").read_text() == "mine"
    assert "renamed to latest.copy-1" in capsys.readouterr().err
    point_latest(run_folder, "one-1")
    assert capsys.readouterr().err == ""


def test_latest_on_a_disk_that_cannot_be_written_to_is_a_line(run_folder, monkeypatch, capsys):
    without_links(monkeypatch, errno.EROFS)

    def refuse(path, flags, *arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("snaketune.workflow.results.latest_link.write_bytes", refuse)
    point_latest(run_folder, "one-1")
    assert "latest cannot be set to one-1 (Read-only file system)" in capsys.readouterr().err


def test_cards_of_results_that_cannot_be_written_to_stay(tmp_path, monkeypatch, capsys):
    def refuse(path, content):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter_card.md").write_text("card")
    monkeypatch.setattr("snaketune.card.placing.write_bytes", refuse)
    finish_run([str(tmp_path / "nothing")], tmp_path)
    assert "cannot be written (Read-only file system)" in capsys.readouterr().err


def hold(path, turns):
    """Count up in a file under a lock: without exclusion, turns get lost."""
    for _ in range(turns):
        with wait_for_lock(path):
            counter = path.with_name("counter")
            number = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(number + 1))


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_the_kernels_locks_one_process_alone_has_the_file(tmp_path, monkeypatch, code):
    without_locks(monkeypatch, code)
    lock, _ = try_lock(tmp_path / "lock")
    assert lock is not None
    assert try_lock(tmp_path / "lock") == (None, str(os.getpid()))
    lock.close()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    with wait_for_lock(tmp_path / "lock"):
        assert try_lock(tmp_path / "lock")[0] is None


def test_without_the_kernels_locks_processes_take_turns(tmp_path, monkeypatch):
    without_locks(monkeypatch)
    monkeypatch.setattr("snaketune.core.locks.POLL_SECONDS", 0.002)
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=hold, args=(tmp_path / "lock", 10)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "counter").read_text() == "30"


@pytest.mark.parametrize(
    ("content", "age", "taken"),
    [
        ({"place": "HERE", "pid": GONE}, 0, True),
        ({"place": "HERE", "pid": 1}, 10**6, False),
        ({"place": "another.1", "pid": GONE}, 10**6, False),
        (None, 0, False),
        (None, 10**6, True),
    ],
)
def test_a_held_file_is_taken_over_only_when_its_process_is_gone(tmp_path, monkeypatch, content, age, taken):
    without_locks(monkeypatch)
    held = tmp_path / "lock.held"
    held.write_text(json.dumps(content).replace("HERE", this_place()) if content else "")
    os.utime(held, (time.time() - age, time.time() - age))
    lock, holder = try_lock(tmp_path / "lock")
    assert (lock is not None) == taken
    if content and content["place"] == "another.1":
        assert holder == f"{GONE} on another (if it is gone, remove {held})"


def test_a_crashed_breaker_of_a_stale_lock_stops_nobody(tmp_path, monkeypatch):
    without_locks(monkeypatch)
    for name in ("lock.held", "lock.held.breaking"):
        (tmp_path / name).write_text(json.dumps({"place": this_place(), "pid": GONE}))
    lock, _ = try_lock(tmp_path / "lock")
    assert lock is not None and not (tmp_path / "lock.held.breaking").exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_of_its_own_is_no_lock(tmp_path, kind):
    victim, lock = tmp_path / "victim", tmp_path / "lock"
    victim.write_text("precious")
    {"link": lambda: lock.symlink_to(victim), "pipe": lambda: os.mkfifo(lock), "folder": lock.mkdir}[kind]()
    with pytest.raises(DataError, match="has to be a regular file of its own: remove it"):
        try_lock(lock)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_folders_that_cannot_be_flushed_are_written_all_the_same(tmp_path, monkeypatch, code):
    without_flushing(monkeypatch, code)
    atomic.write_json(tmp_path / "x.json", {})
    with atomic.writing_directory(tmp_path / "folder") as partial:
        (partial / "a").write_text("a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "x.json"]
    (note,) = try_folder(str(tmp_path), "paths.results")
    assert "cannot flush folders" in note


def test_a_broken_disk_is_not_taken_for_one_that_cannot_flush(tmp_path, monkeypatch):
    without_flushing(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        atomic.write_json(tmp_path / "x.json", {})


def test_what_a_disk_lacks_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    assert try_folder(str(tmp_path / "new" / "results"), "paths.results") == []
    without_links(monkeypatch)
    (note,) = try_folder(str(tmp_path), "paths.results")
    assert note.endswith("has no symbolic links: runs/<run>/latest.txt names the current folder.")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    read_only(monkeypatch)
    with pytest.raises(ConfigError, match=r"results: .*x cannot be written to \(Read-only file system\): mount"):
        try_folder(str(tmp_path / "x"), "paths.results")


def test_a_lock_in_a_folder_that_cannot_be_written_to_is_a_sentence(tmp_path, monkeypatch):
    read_only(monkeypatch)
    with pytest.raises(ConfigError, match=r"workflow.lock cannot be written \(Read-only file system\)"):
        lock_or_explain(tmp_path / "work" / "workflow.lock")


def test_results_have_to_be_a_folder(tmp_path):
    check_folder(str(tmp_path / "new" / "results"), "paths.results")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "good").symlink_to(".")
    check_folder(str(tmp_path / "good" / "results"), "paths.results")
    for name, words in (("file", "is a file"), ("file/below", "is a file"), ("link", "nowhere, which does not exist")):
        with pytest.raises(ConfigError, match=words):
            check_folder(str(tmp_path / name), "paths.results")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("a\0b", "is not allowed in a path"),
        ("a\nb", "is not allowed in a path"),
        ("{x}", "is not allowed in a path"),
        ("$NOT_SET/results", "the variable \\$NOT_SET is not set"),
        ("${NOT_SET}/x", "is not set"),
        ("~nobody-of-that-name/x", "no such user"),
        ("x" * 256, "longer than 255 bytes"),
        ("ä" * 128, "longer than 255 bytes"),
    ],
)
def test_names_that_no_folder_can_have_are_refused(path, words):
    with pytest.raises(ConfigError, match=words):
        usable_path(path, "paths.results")


@pytest.mark.parametrize("name", ["work", "logs", "benchmarks", ".snakemake"])
@pytest.mark.parametrize("kind", ["a file", "a link to nothing", "a link to itself"])
def test_something_else_in_place_of_a_folder_of_the_workflow_is_named(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    if kind == "a file":
        Path(name).touch()
    else:
        Path(name).symlink_to(name if kind == "a link to itself" else "/no/where")
    with pytest.raises(ConfigError, match=rf"this project: {re.escape(name)} is a (file|link to)"):
        check_own_folders()
    assert outside_notes({"work": name}, tmp_path) == (
        ["outside this project: work is /no/where."] if kind == "a link to nothing" else []
    )


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (".", "contains the project itself"),
        ("..", "contains the project itself"),
        ("/", "contains the project itself"),
        ("results/..", "contains the project itself"),
        ("work", "is in work/, which the workflow needs"),
        ("data/results", "is in data/"),
        ("link", "is in scripts/"),
        ("results", None),
        ("../elsewhere", None),
        ("my/scripts", None),
    ],
)
def test_results_are_apart_from_what_else_there_is(tmp_path, results, words):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "link").symlink_to("scripts")
    if words is None:
        return check_apart(results, tmp_path / "project")
    with pytest.raises(ConfigError, match=words):
        check_apart(results, tmp_path / "project")


def test_what_is_outside_the_project_is_said(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "work").symlink_to(tmp_path)
    folders = {"paths.results": "results", "paths.scratch": None}
    assert outside_notes(folders, tmp_path / "project") == []
    folders |= {"paths.scratch": "../scratch", "work": "work"}
    (note,) = outside_notes(folders, tmp_path / "project")
    assert note == f"outside this project: paths.scratch is {tmp_path}/scratch, work is {tmp_path}."


def test_results_that_can_only_be_read_are_said_to_be(tmp_path, monkeypatch):
    assert unwritable_notes(tmp_path, "paths.results") == unwritable_notes(tmp_path / "new", "paths.results") == []
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as on a disk that is mounted for reading
    (note,) = unwritable_notes(tmp_path, "paths.results")
    assert note.startswith(f"paths.results: {tmp_path} cannot be written to")
    assert unwritable_notes(tmp_path / "new", "paths.results") == []


def test_a_finished_run_on_a_disk_for_reading_is_no_note(tmp_path, monkeypatch, capsys):
    def refuse(path, *arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    (tmp_path / "report.html").touch()
    monkeypatch.setattr(Path, "unlink", refuse)  # also of what is not there
    finish_run([str(tmp_path / "report.html")], tmp_path)
    assert capsys.readouterr().err == ""


def test_a_folder_that_somebody_reads_is_replaced_on_nfs(tmp_path, monkeypatch):
    """A file that is open cannot be removed there, and its folder neither; it can be renamed."""
    unlink = os.unlink

    def refuse(path, **options):
        if str(path) == "weights":
            raise OSError(errno.EBUSY, "Device or resource busy")
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    for content in ("old", "new"):
        with atomic.writing_directory(tmp_path / "model") as partial:
            (partial / "weights").write_text(content)
    assert (tmp_path / "model" / "weights").read_text() == "new"
    (left,) = (path for path in tmp_path.iterdir() if path.name != "model")
    assert PARTIAL.match(left.name)


def test_silly_renames_are_no_results(tmp_path):
    """NFS keeps a removed file that is open as `.nfs…` in its folder."""
    for name in ("weights", ".nfs0000000000a1b2c300000001"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_text(name)
    assert list(describe_files([tmp_path / "model"], tmp_path)) == ["model/weights"]
    atomic.remove_tree(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_home_and_variables_stand_for_what_they_mean(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DISK", "/big")
    assert usable_path("~/results", "paths.results") == "/home/me/results"
    assert usable_path("$DISK/results", "paths.results") == usable_path("${DISK}/results", "x") == "/big/results"
    assert usable_path("a b's $(x)", "paths.results") == "a b's $(x)"


def test_a_clock_that_went_back_is_noticed(tmp_path):
    file = tmp_path / "data" / "manifest.json"
    file.parent.mkdir()
    file.touch()
    now = file.stat().st_mtime
    check_clock([file], now - 30)
    with pytest.raises(ConfigError, match=r"and .*manifest.json was written at .*: set the clock"):
        check_clock([file], now - 10**7)
    with pytest.raises(ConfigError, match=r"manifest.json was written"):
        check_clock([tmp_path / "nothing", tmp_path / "data"], now - 10**7)


def test_a_name_of_255_bytes_has_a_partial_name_of_its_own(tmp_path):
    names = ["ä" * 127, "x" * 255, "x" * 254 + "y"]
    assert len({atomic.sibling(tmp_path / name) for name in names}) == 3
    for name in names:
        atomic.write_bytes(tmp_path / name, name.encode())
        assert (tmp_path / name).read_bytes() == name.encode()


def test_what_somebody_put_at_the_partial_name_is_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".x.partial-{this_process()}").symlink_to(victim)
    atomic.write_bytes(tmp_path / "x", b"new")
    assert victim.read_text() == "precious" and (tmp_path / "x").read_bytes() == b"new"
    assert not (tmp_path / "x").is_symlink()


def test_the_process_of_a_held_file_may_die(tmp_path):
    """The kernel's locks die with their process; a held file is told by its process."""
    code = "import fcntl, os, sys\ndef no(*a): raise OSError(38, 'x')\nfcntl.flock = no\n"
    code += "from snaketune.core.locks import try_lock; l = try_lock(sys.argv[1]); os.kill(os.getpid(), 9)"
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code, tmp_path / "lock"], env=environment, check=False)
    assert (tmp_path / "lock.held").exists()
    code = code.replace("os.kill(os.getpid(), 9)", "print(l[0] is not None)")
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "lock"], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "True\n", done.stderr
    assert not Path(tmp_path / "lock.held").exists()
