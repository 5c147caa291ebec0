import errno
import os
import shutil
from pathlib import Path

import orjson
import pytest
from data_files import PAIR

from snaketune.core.digests import file_digest
from snaketune.core.errors import DataError, DiskFullError
from snaketune.data.quickstart import quickstart_lines
from snaketune.storage import copying
from snaketune.storage.disks import (
    Disk,
    Disks,
    DiskSpeed,
    disk_of,
    is_ours,
    measure_disk,
    read_rate,
    temporary_place,
    usual_folders,
)
from snaketune.storage.stage_facts import facts_of, sources_of
from snaketune.storage.staging import ensure_staged, stage_sources

BUILTIN = {"path": "builtin:quickstart", "digest": "builtin"}
CONTENT = PAIR * 1000


@pytest.fixture
def entry(tmp_path):
    path = tmp_path / "raw" / "x.jsonl"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return {"path": str(path), "digest": file_digest(path)}


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


def machine(tmp_path, free=None, speed=None, **kinds):
    """Return disks that are the folders of ``tmp_path``, each with a type; the scratch of a disk is its folder."""
    kinds = {"raw": "nfs4", "scratch": "ext4", **kinds}
    names = list(kinds)

    def name_of(path):
        return next((name for name in names if Path(path).absolute().is_relative_to(tmp_path / name)), "raw")

    def rate(folder):
        folder.mkdir(exist_ok=True)
        return DiskSpeed(*(2 * [1e6 * (speed or {}).get(name_of(folder), 500)]))

    return Disks(
        [tmp_path / name for name in names],
        tmp_path / "work" / "disks.json",
        lambda path: Disk(names.index(name_of(path)), kinds[name_of(path)]),
        rate,
        lambda path: (free or {}).get(name_of(path), 10**12),
    )


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def place_of(sources, scratch, work, disks):
    (place,) = ensure_staged(sources, scratch, work, disks)
    return place


def noted(work, entry):
    return orjson.loads((work / "staging.json").read_bytes())[entry["path"]]


def test_without_scratch_a_source_is_described_and_read_where_it_is(entry, work):
    sources = stage_sources([entry], None, work)
    assert facts_of(sources) == {"sources": [{**entry, "bytes": len(CONTENT)}]}
    assert sources_of(facts_of(sources)) == sources
    assert ensure_staged(sources, None, work) == [Path(entry["path"])]
    assert noted(work, entry)["how"] == "in place"
    assert noted(work, entry)["read_before_mb_per_s"] == noted(work, entry)["read_after_mb_per_s"] > 0


@pytest.mark.parametrize("scratch", ["folder", "auto"])
def test_with_scratch_a_verified_copy_is_made_once(entry, tmp_path, work, scratch):
    disks, folder = machine(tmp_path), tmp_path / "scratch"
    scratch = folder if scratch == "folder" else scratch
    sources = stage_sources([entry], scratch, work, disks)
    copy = folder / entry["digest"] / "x.jsonl"
    inode = copy.stat().st_ino
    assert place_of(sources, scratch, work, disks) == copy
    assert copy.read_bytes() == CONTENT
    assert copy.stat().st_ino == inode
    assert files_in(folder) == ["x.jsonl"]
    assert noted(work, entry)["how"] == "copy"
    assert noted(work, entry)["read_before_mb_per_s"] > 0
    assert noted(work, entry)["read_after_mb_per_s"] > 0


@pytest.mark.parametrize("scratch", ["folder", "auto"])
def test_a_source_on_the_disk_of_the_scratch_is_read_in_place(entry, tmp_path, work, scratch):
    disks = machine(tmp_path, raw="ext4", scratch="nfs4")
    folder = tmp_path / "raw" / "scratch" if scratch == "folder" else scratch
    sources = stage_sources([entry], folder, work, disks)
    assert place_of(sources, folder, work, disks) == Path(entry["path"])
    assert files_in(tmp_path / "raw") == ["x.jsonl"]


def test_what_is_local_already_is_not_even_measured(entry, tmp_path, work):
    stage_sources([entry], "auto", work, machine(tmp_path, raw="ext4", scratch="nfs4"))
    assert not (work / "disks.json").exists()


def test_auto_takes_the_fastest_local_disk_with_room_and_measures_once(entry, tmp_path, work):
    kinds = {"slow": "ext4", "small": "xfs", "fast": "btrfs", "memory": "tmpfs", "far": "lustre"}
    speed = {"slow": 90, "small": 9000, "fast": 3000, "memory": 20000, "far": 50000}
    options = {"free": {"small": 100}, "speed": speed, "scratch": "nfs4", **kinds}
    sources = stage_sources([entry], "auto", work, machine(tmp_path, **options))
    assert files_in(tmp_path / "fast") == ["x.jsonl"]
    speed.update(slow=99999)
    assert place_of(sources, "auto", work, machine(tmp_path, **options)).is_relative_to(tmp_path / "fast")


@pytest.mark.parametrize(("rate", "moves"), [(1e-6, False), (1e12, True)])
def test_auto_moves_a_source_between_local_disks_only_where_that_pays(entry, tmp_path, work, rate, moves):
    disks = machine(tmp_path, raw="ext4", speed={"raw": 0, "scratch": rate})
    stage_sources([entry], "auto", work, disks)
    assert (files_in(tmp_path / "scratch") == ["x.jsonl"]) == moves


@pytest.mark.parametrize("scratch", ["folder", "auto"])
def test_too_little_room_is_one_sentence_and_nothing_is_copied(entry, tmp_path, work, scratch):
    disks = machine(tmp_path, free={"scratch": len(CONTENT) - 1})
    folder = tmp_path / "scratch" / "deep" if scratch == "folder" else scratch
    with pytest.raises(DataError, match=r"paths\.scratch: .* has 0\.00 GB free and the copies need 0\.00 GB") as caught:
        stage_sources([entry], folder, work, disks)
    assert "null" in str(caught.value)
    assert not (tmp_path / "scratch").exists()


def test_auto_without_any_local_disk_is_one_sentence(entry, tmp_path, work):
    with pytest.raises(DataError, match=r"auto finds no writable local disk .*tried .*scratch.*null"):
        stage_sources([entry], "auto", work, machine(tmp_path, scratch="beegfs"))


def test_a_scratch_that_is_a_file_is_one_sentence(entry, tmp_path, work):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"paths\.scratch: .*file is a file"):
        stage_sources([entry], tmp_path / "file", work)


def test_a_wiped_scratch_and_a_damaged_copy_only_cost_a_copy(entry, tmp_path, work):
    disks, scratch = machine(tmp_path), tmp_path / "scratch"
    sources = stage_sources([entry], scratch, work, disks)
    shutil.rmtree(scratch)
    copy = place_of(sources, scratch, work, disks)
    damaged = bytearray(copy.read_bytes())
    damaged[500] ^= 1
    copy.write_bytes(damaged)
    assert place_of(sources, scratch, work, disks).read_bytes() == CONTENT
    assert Path(entry["path"]).read_bytes() == CONTENT


def test_a_copy_outlives_its_original(entry, tmp_path, work):
    disks, scratch = machine(tmp_path), tmp_path / "scratch"
    sources = stage_sources([entry], scratch, work, disks)
    shutil.rmtree(tmp_path / "raw")
    assert place_of(sources, scratch, work, disks).read_bytes() == CONTENT


@pytest.mark.parametrize("scratch", [None, "scratch", "auto"])
def test_a_source_that_changed_meanwhile_is_refused_and_leaves_no_copy(entry, tmp_path, work, scratch):
    folder = tmp_path / scratch if scratch == "scratch" else scratch
    with pytest.raises(DataError, match=r"x\.jsonl changed while the workflow ran"):
        stage_sources([{**entry, "digest": "0" * 32}], folder, work, machine(tmp_path))
    assert not files_in(tmp_path / "scratch")


def test_a_broken_copy_is_continued(entry, tmp_path, work, monkeypatch):
    monkeypatch.setattr(copying, "HASHED_AT_ONCE", 4096)
    scratch = tmp_path / "scratch"
    partial = scratch / entry["digest"] / ".x.jsonl.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[:10_001])
    (source,) = stage_sources([entry], scratch, work, machine(tmp_path))
    assert (scratch / entry["digest"] / "x.jsonl").read_bytes() == CONTENT
    assert files_in(scratch) == ["x.jsonl"]
    assert noted(work, entry)["resumed_bytes"] == 10_001
    assert source.bytes == len(CONTENT)


@pytest.mark.parametrize("left", [b"\0" * 10_001, CONTENT[:5] + b"x" + CONTENT[6:500], CONTENT + b"more"])
def test_a_broken_copy_that_is_damaged_is_made_anew(entry, tmp_path, work, left):
    scratch = tmp_path / "scratch"
    partial = scratch / entry["digest"] / ".x.jsonl.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(left)
    stage_sources([entry], scratch, work, machine(tmp_path))
    assert (scratch / entry["digest"] / "x.jsonl").read_bytes() == CONTENT


class Interrupted(Exception):
    """What a test interrupts a copy with."""


@pytest.mark.parametrize("inside", [True, False])
def test_an_interrupted_copy_keeps_what_it_has_and_publishes_nothing(entry, tmp_path, monkeypatch, inside):
    monkeypatch.setattr(copying, "HASHED_AT_ONCE", 4096)
    if not inside:
        monkeypatch.setattr(os, "copy_file_range", refuse(errno.EXDEV), raising=False)
    target, seen = tmp_path / "copy" / "x.jsonl", []

    def stop(size):
        seen.append(size)
        if len(seen) == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        copying.copy_verified(entry["path"], target, entry["digest"], stop)
    assert files_in(target.parent) == [".x.jsonl.partial"]
    done = []
    copied = copying.copy_verified(entry["path"], target, entry["digest"], done.append)
    assert (copied.how, copied.resumed) == ("copy", 3 * 4096)
    assert target.read_bytes() == CONTENT
    assert sum(done) == len(CONTENT)


def refuse(code):
    def fail(*arguments):
        raise OSError(code, os.strerror(code))

    return fail


def test_a_full_disk_leaves_nothing(entry, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    with pytest.raises(DiskFullError, match=r"the disk is full: the copy needs [\d,]+ bytes"):
        copying.copy_verified(entry["path"], tmp_path / "copy" / "x.jsonl", entry["digest"], lambda size: None)
    assert not files_in(tmp_path / "copy")


def test_a_reflink_is_verified_like_a_copy(entry, tmp_path, monkeypatch):
    def share(descriptor, request, original):
        assert request == copying.FICLONE
        os.write(descriptor, os.pread(original, len(CONTENT), 0))

    monkeypatch.setattr(copying.fcntl, "ioctl", share)
    target = tmp_path / "copy" / "x.jsonl"
    assert copying.copy_verified(entry["path"], target, entry["digest"], lambda size: None).how == "reflink"
    assert target.read_bytes() == CONTENT
    target.unlink()
    with pytest.raises(DataError, match="changed while"):
        copying.copy_verified(entry["path"], target, "0" * 32, lambda size: None)
    assert not files_in(target.parent)


@pytest.mark.parametrize("scratch", [None, "scratch"])
def test_the_quickstart_is_written_by_content(tmp_path, work, scratch):
    place = scratch and tmp_path / scratch
    sources = stage_sources([BUILTIN], place, work)
    path = place_of(sources, place, work, None)
    assert path.read_bytes() == b"".join(quickstart_lines())
    assert (sources[0].path, sources[0].digest) == ("builtin:quickstart", file_digest(path))
    assert path.parent == (place or work / "builtin") / sources[0].digest


def test_a_missing_source_is_an_error(tmp_path, work):
    with pytest.raises(DataError, match="does not exist"):
        stage_sources([{"path": str(tmp_path / "no.jsonl"), "digest": "0" * 32}], None, work)


def test_the_type_of_a_disk_is_that_of_the_nearest_mount(tmp_path):
    inner = tmp_path / "two words" / "inner"
    inner.mkdir(parents=True)
    mounts = tmp_path / "mounts"
    spaced = str(inner.parent).replace(" ", "\\040")
    points = {"/": "ext4", spaced: "nfs4", f"{spaced}/inner/x": "xfs", f"{tmp_path}/t": "zfs"}
    mounts.write_text("".join(f"device {point} {kind} rw 0 0\n" for point, kind in points.items()))
    assert disk_of(inner / "not" / "there", mounts).kind == "nfs4"
    assert disk_of(tmp_path / "two", mounts).kind == "ext4"
    assert disk_of(tmp_path, tmp_path / "no mounts").kind == "unknown"
    assert not disk_of(tmp_path, tmp_path / "no mounts").is_local


def test_a_folder_is_measured_and_left_empty(tmp_path, monkeypatch):
    monkeypatch.setattr("snaketune.storage.disks.TRIAL_BYTES", 4 << 20)
    speed = measure_disk(tmp_path / "new")
    assert speed.write > 0
    assert speed.read > 0
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").write_bytes(CONTENT)
    assert read_rate(tmp_path / "file") > 0


def test_a_folder_that_another_could_have_prepared_is_not_ours(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    answers = {name: is_ours(tmp_path / name) for name in ("real", "new", "link", "dangling", "file")}
    assert answers == {"real": True, "new": True, "link": False, "dangling": False, "file": False}


def test_places_that_the_environment_names_come_first_and_the_workflow_has_one_of_its_own(tmp_path, work):
    folders = usual_folders([None, str(tmp_path)], work)
    assert folders[0] == tmp_path / f"snaketune-{os.getuid()}"
    assert folders[-1] == work / "scratch"
    assert Path(f"/tmp/snaketune-{os.getuid()}") in folders


def test_temporary_files_go_to_scratch_where_it_is_set(tmp_path):
    work, disks = tmp_path / "raw" / "work", machine(tmp_path)
    assert temporary_place(None, work, "dedupe-x", disks) == work / "dedupe-x"
    place = temporary_place(tmp_path / "scratch", work, "dedupe-x", disks)
    assert place.parent == tmp_path / "scratch"
    assert place.name.startswith("dedupe-x-")
    other = temporary_place(tmp_path / "scratch", tmp_path / "raw" / "another" / "work", "dedupe-x", disks)
    assert other != place


def test_automatic_scratch_takes_the_fastest_disk_with_room_or_the_folder_of_the_workflow(tmp_path):
    work = tmp_path / "raw" / "work"
    disks = machine(tmp_path, free={"fast": 100}, speed={"fast": 900}, fast="xfs")
    assert temporary_place("auto", work, "x", disks, needed=100).parent == tmp_path / "fast"
    assert temporary_place("auto", work, "x", disks, needed=101).parent == tmp_path / "scratch"
    assert temporary_place("auto", work, "x", disks, needed=1 << 60) == work / "x"
    assert temporary_place("auto", tmp_path / "scratch" / "work", "x", machine(tmp_path)).name == "x"
