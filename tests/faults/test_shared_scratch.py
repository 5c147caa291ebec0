"""A scratch folder that several users share: what one of them plants there, and what he can see of the other's data."""

import multiprocessing
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from snaketune.core.digests import file_digest
from snaketune.core.errors import DataError
from snaketune.core.private_folders import PrivateFolder, own_place
from snaketune.storage.disks import Disk, Disks, DiskSpeed
from snaketune.storage.staging import stage_sources

CONTENT = '{"text": "private"}\n' * 100
ANOTHER = 65534


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "raw" / "x.jsonl"
    path.parent.mkdir()
    path.write_text(CONTENT)
    path.chmod(0o600)
    return path


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def stage(source, scratch, tmp_path):
    """Stage a source to a disk that is said to be another one, and return the place of the copy."""
    disks = Disks(
        [],
        tmp_path / "disks.json",
        lambda path: Disk(2 if Path(path).is_relative_to(scratch) else 1, "ext4"),
        lambda folder: DiskSpeed(1.0, 1.0),
        lambda path: 10**12,
    )
    entry = {"path": str(source), "digest": file_digest(source)}
    stage_sources([entry], scratch, tmp_path / "work", disks)
    (copy,) = (path for path in scratch.rglob(source.name) if path.is_file() and "aside" not in path.parts)
    return copy


def test_a_private_source_has_a_private_copy_in_a_folder_of_ours(source, shared, tmp_path):
    copy = stage(source, shared, tmp_path)
    assert copy.relative_to(shared).parts[0] == f"snaketune-{os.geteuid()}"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    for folder in (copy.parent, copy.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_read_only_source_is_read_and_copied_as_it_is(source, shared, tmp_path):
    source.chmod(0o400)
    source.parent.chmod(0o500)
    before = source.stat()
    for _ in range(2):  # the second time the copy, which cannot be written to either, is there
        copy = stage(source, shared, tmp_path)
        assert copy.read_text() == CONTENT
        assert stat.S_IMODE(copy.stat().st_mode) & 0o077 == 0
    after = source.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    assert list(source.parent.iterdir()) == [source]
    source.parent.chmod(0o700)


def test_a_folder_that_is_ours_alone_is_used_itself(source, tmp_path):
    scratch = tmp_path / "scratch"
    assert own_place(scratch) == scratch
    scratch.mkdir(mode=0o755)
    copy = stage(source, scratch, tmp_path)
    assert copy.parent.parent == scratch and stat.S_IMODE(copy.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", [".x.jsonl.partial", "x.jsonl"])
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_planted_files_are_not_written_through(source, tmp_path, name, kind):
    scratch, victim = tmp_path / "scratch", tmp_path / "victim"
    victim.write_text("precious")
    place = scratch / file_digest(source) / name
    place.parent.mkdir(parents=True, mode=0o700)
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(victim) if kind == "link" else place.hardlink_to(victim)
    copy = stage(source, scratch, tmp_path)
    assert copy.read_text() == CONTENT and not copy.is_symlink()
    assert victim.read_text() == "precious"


def test_a_planted_lock_is_not_truncated(source, tmp_path):
    scratch, victim = tmp_path / "scratch", tmp_path / "victim"
    victim.write_text("precious")
    lock = scratch / file_digest(source) / ".lock"
    lock.parent.mkdir(parents=True)
    lock.symlink_to(victim)
    with pytest.raises(DataError, match="has to be a regular file of its own"):
        stage(source, scratch, tmp_path)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("level", ["digest", "own"])
def test_a_planted_folder_is_refused(source, shared, tmp_path, level):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    own = shared / f"snaketune-{os.geteuid()}"
    link = own if level == "own" else own / file_digest(source)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    with pytest.raises(DataError, match="is a link where the workflow needs a folder of its own: remove it"):
        stage(source, shared, tmp_path)
    assert list(elsewhere.iterdir()) == []


def test_a_folder_of_ours_that_is_open_to_all_is_closed(tmp_path):
    (tmp_path / "own").mkdir(mode=0o777)
    with PrivateFolder(tmp_path / "own") as folder:
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_what_is_done_in_a_folder_stays_in_it_when_its_path_is_taken(tmp_path):
    with PrivateFolder(tmp_path / "own") as folder:
        os.close(folder.create("file"))
        (tmp_path / "own").rename(tmp_path / "moved")
        (tmp_path / "own").mkdir()
        folder.publish("file", "final")
    assert (tmp_path / "moved" / "final").exists() and not list((tmp_path / "own").iterdir())


def require_other_users() -> None:
    """Skip where this user may not act as another: not root, or root of a container without the capabilities."""
    allowed = 0
    if os.geteuid() == 0:
        status = Path("/proc/self/status").read_text()
        allowed = int(re.search(r"^CapEff:\s*(\w+)", status, re.MULTILINE)[1], 16)
    if any(not allowed & 1 << bit for bit in (0, 6, 7)):  # CHOWN, SETGID, SETUID
        pytest.skip("only root can act as other users: run the tests as root, or in a container, to see this")


def as_another(code: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run shell commands as another user; skip where this one may not become one."""
    require_other_users()
    return subprocess.run(
        ["/bin/sh", "-c", code, "sh", *map(str, arguments)],
        cwd="/",
        user=ANOTHER,
        group=ANOTHER,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )


def reachable(tmp_path):
    """Let another user reach a folder of the test."""
    for folder in [tmp_path, *tmp_path.parents][:-2]:
        folder.chmod(folder.stat().st_mode | 0o055)


READ = 'for path; do cat "$path" || ls "$path" || echo more >> "$path" || echo refused; done'
FOLDER, LINK = 'mkdir "$1"', 'ln -s /tmp "$1"'


def test_another_user_can_neither_read_nor_change_a_copy(source, shared, tmp_path):
    reachable(tmp_path)
    copy = stage(source, shared, tmp_path)
    done = as_another(READ, copy, copy.parent, copy.parent.parent)
    assert done.stdout.split() == ["refused"] * 3, done.stderr


@pytest.mark.parametrize("what", ["folder", "link"])
def test_what_another_user_plants_in_our_place_is_refused(source, shared, tmp_path, what):
    reachable(tmp_path)
    own = shared / f"snaketune-{os.geteuid()}"
    assert as_another(FOLDER if what == "folder" else LINK, own).returncode == 0
    with pytest.raises(DataError, match="belongs to another user" if what == "folder" else "is a link where"):
        stage(source, shared, tmp_path)


def test_another_users_folder_of_the_same_digest_does_not_matter(source, shared, tmp_path):
    reachable(tmp_path)
    assert as_another(FOLDER, shared / file_digest(source)).returncode == 0
    assert stage(source, shared, tmp_path).read_text() == CONTENT


VICTIM, THIEF = 65531, 65532


def as_user(uid, function):
    """Call a function in a process of another user and return what it returned, or the text of its error."""
    require_other_users()
    receive, send = multiprocessing.Pipe(duplex=False)
    if not (pid := os.fork()):
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            send.send(function())
        except BaseException as error:
            send.send(f"{type(error).__name__}: {error}")
        os._exit(0)
    try:
        return receive.recv()
    finally:
        os.waitpid(pid, 0)


@pytest.fixture
def victims(tmp_path):
    """A private source of one user, and a scratch folder without the sticky bit: anyone may rename what is in it."""
    require_other_users()
    reachable(tmp_path)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch").chmod(0o777)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "x.jsonl").write_text(CONTENT)
    for path, mode in ((tmp_path / "home" / "x.jsonl", 0o600), (tmp_path / "home", 0o700)):
        path.chmod(mode)
        os.chown(path, VICTIM, VICTIM)
    return lambda: str(stage(tmp_path / "home" / "x.jsonl", tmp_path / "scratch", tmp_path / "home"))


def attempt(what, *arguments):
    """Return the name of the error that a system call ends in."""
    try:
        what(*arguments)
    except OSError as error:
        return type(error).__name__
    return "done"


def test_of_two_users_neither_reads_nor_changes_what_is_the_others(victims, tmp_path):
    copy = Path(as_user(VICTIM, victims))
    assert copy.is_relative_to(tmp_path / "scratch" / f"snaketune-{VICTIM}") and copy.stat().st_uid == VICTIM

    def steal():
        tried = [(Path.read_text, copy), (Path.unlink, copy), (os.listdir, copy.parent), (Path.chmod, copy, 0o666)]
        tried += [
            (Path.write_text, copy, "x"),
            (os.link, copy, tmp_path / "scratch" / "mine"),
            (Path.mkdir, copy / "y"),
        ]
        return {attempt(*one) for one in tried}

    assert as_user(THIEF, steal) == {"PermissionError"}
    assert as_user(VICTIM, victims) == str(copy) and copy.read_text() == CONTENT


@pytest.mark.parametrize("planted", ["nothing", "folder", "link", "another content"])
def test_a_user_whose_folder_was_renamed_is_told_or_copies_again(victims, tmp_path, planted):
    copy = Path(as_user(VICTIM, victims))
    own, aside = tmp_path / "scratch" / f"snaketune-{VICTIM}", tmp_path / "scratch" / "aside"

    def swap():
        own.rename(aside)
        if planted == "link":
            own.symlink_to(tmp_path)
        elif planted != "nothing":
            own.mkdir()
        if planted == "another content":
            copy.parent.mkdir()
            copy.write_text(CONTENT.replace("private", "planted"))

    assert as_user(THIEF, swap) is None
    answer = as_user(VICTIM, victims)
    if planted == "nothing":
        assert answer == str(copy) and copy.read_text() == CONTENT
    else:
        assert answer.startswith("DataError: ")
        assert "is a link where" in answer if planted == "link" else "belongs to another user" in answer
    assert as_user(THIEF, lambda: attempt(os.listdir, aside)) == "PermissionError"
