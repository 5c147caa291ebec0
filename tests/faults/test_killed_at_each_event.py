"""Killed at each event of a file system while something is written, what is there afterwards is whole."""

import os
import signal
import sys
from pathlib import Path

import pytest

from snaketune.core.atomic import remove_tree, write_bytes, writing_directory
from snaketune.core.manifest import damaged_files, read_manifest, write_manifest
from snaketune.train.checkpoints.checkpoints import checkpoint_steps, keep_newest, newest_intact, seal
from snaketune.workflow.results.leftovers import find_leftovers

EVENTS = {"open", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.utime"}


def is_killed(work, at: int) -> bool:
    """Do some work in a process that is killed just before its event number ``at``; tell whether it came so far."""
    if not (pid := os.fork()):
        left = at

        def count(event, arguments):
            nonlocal left
            if event in EVENTS and not (left := left - 1):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL


def at_each_event(folder: Path, prepare, work, check) -> int:
    """Prepare, kill the work and check, once for each of its events; return how many there were."""
    number = 1
    while True:
        remove_tree(folder)
        folder.mkdir()
        prepare()
        killed = is_killed(work, number)
        check(killed)
        work()  # the same command
        check(False)
        if not killed:
            return number - 1
        assert number < 500
        number += 1


def write(folder: Path, content: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("a", "b"):
        (folder / name).write_text(content)


def content_of(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    file = tmp_path / "x" / "file"

    def check(killed):
        assert file.read_text() in ({"old", "new" * 9999} if killed else {"new" * 9999})

    assert (
        at_each_event(file.parent, lambda: file.write_text("old"), lambda: write_bytes(file, b"new" * 9999), check) >= 3
    )


def test_a_folder_is_the_old_one_the_new_one_or_not_there(tmp_path):
    folder, seen = tmp_path / "x" / "model", set()

    def work():
        with writing_directory(folder) as partial:
            write(partial, "new")

    def check(killed):
        found = tuple(content_of(folder)) if folder.exists() else ()
        assert found in ({("old",), ("new",), ()} if killed else {("new",)})
        assert not folder.exists() or len(list(folder.iterdir())) == 2
        seen.add(found)
        if not killed:
            left = [path for path in folder.parent.iterdir() if path != folder]
            assert sorted(left) == find_leftovers(
                [folder.parent]
            )  # of processes that are gone: swept at the next start

    assert at_each_event(folder.parent, lambda: write(folder, "old"), work, check) > 10
    assert seen == {("old",), ("new",), ()}


def test_a_manifest_vouches_for_nothing_that_is_not_whole(tmp_path):
    folder = tmp_path / "x"

    def make(content):
        (folder / "manifest.json").unlink(missing_ok=True)
        with writing_directory(folder / "data") as partial:
            write(partial, content)
        write_manifest(folder / "manifest.json", "stage", [folder / "data"], {})

    def check(killed):
        if (folder / "manifest.json").exists():
            assert damaged_files(folder / "manifest.json") == []
            read_manifest(folder / "manifest.json")
        assert killed or content_of(folder / "data") == {"new"}

    assert at_each_event(folder, lambda: make("old"), lambda: make("new"), check) > 15


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step again"])
def test_a_checkpoint_is_whole_or_the_one_before_is_used(tmp_path, capsys, again):
    folder, step = tmp_path / "x", 2 if again else 3

    def save(step, content):
        remove_tree(folder / ".partial")  # as the trainer does when it begins
        write(folder / ".partial" / f"checkpoint-{step}", content)
        facts = {"fingerprint": "f", "step": step, "content": content}
        seal(folder / ".partial" / f"checkpoint-{step}", folder / f"checkpoint-{step}", facts)

    def prepare():
        save(1, "1")
        save(2, "2")

    def work():
        save(step, "new")
        keep_newest(folder, 2)

    def check(killed):
        newest = newest_intact(folder, "f")
        assert newest is not None
        assert "is damaged" not in capsys.readouterr().out
        allowed = {"checkpoint-1", "checkpoint-2", f"checkpoint-{step}"} if killed else {f"checkpoint-{step}"}
        assert newest.name in allowed and len(content_of(newest) - {(newest / "checkpoint.json").read_text()}) == 1
        assert killed or checkpoint_steps(folder) == ([2, 1] if again else [3, 2])

    assert at_each_event(folder, prepare, work, check) > 10
