import shutil
from types import SimpleNamespace

import pytest
from data_files import PAIR

from snaketune.common.digests import file_digest
from snaketune.common.errors import DataError
from snaketune.data.quickstart import quickstart_lines
from snaketune.data.staging import ensure_staged, facts_of, sources_of, stage_sources

BUILTIN = {"path": "builtin:quickstart", "digest": "builtin"}


@pytest.fixture
def entry(tmp_path):
    path = tmp_path / "raw" / "x.jsonl"
    path.parent.mkdir()
    path.write_bytes(PAIR * 1000)
    return {"path": str(path), "digest": file_digest(path)}


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def test_without_scratch_a_source_is_described_and_read_where_it_is(entry, tmp_path):
    (source,) = stage_sources([entry], None, tmp_path / "work")
    assert facts_of([source]) == {"sources": [{**entry, "bytes": 1000 * len(PAIR)}]}
    assert sources_of(facts_of([source])) == [source]
    assert str(ensure_staged(source, None)) == entry["path"]


def test_with_scratch_a_verified_copy_is_made_once(entry, tmp_path):
    scratch = tmp_path / "scratch"
    (source,) = stage_sources([entry], scratch)
    copy = scratch / entry["digest"] / "x.jsonl"
    inode = copy.stat().st_ino
    assert ensure_staged(source, scratch) == copy
    assert copy.read_bytes() == PAIR * 1000
    assert copy.stat().st_ino == inode
    assert files_in(scratch) == ["x.jsonl"]


def test_a_wiped_scratch_and_a_damaged_copy_only_cost_a_copy(entry, tmp_path):
    scratch = tmp_path / "scratch"
    (source,) = stage_sources([entry], scratch)
    shutil.rmtree(scratch)
    copy = ensure_staged(source, scratch)
    damaged = bytearray(copy.read_bytes())
    damaged[500] ^= 1
    copy.write_bytes(damaged)
    assert ensure_staged(source, scratch).read_bytes() == PAIR * 1000


def test_a_copy_outlives_its_original(entry, tmp_path):
    (source,) = stage_sources([entry], tmp_path / "scratch")
    shutil.rmtree(tmp_path / "raw")
    assert ensure_staged(source, tmp_path / "scratch").read_bytes() == PAIR * 1000


@pytest.mark.parametrize("scratch", [None, "scratch"])
def test_a_source_that_changed_meanwhile_is_refused_and_leaves_no_copy(entry, tmp_path, scratch):
    with pytest.raises(DataError, match=r"x\.jsonl changed while the workflow ran"):
        stage_sources([{**entry, "digest": "0" * 32}], scratch and tmp_path / scratch)
    assert not files_in(tmp_path / "scratch")


def test_too_little_room_is_one_sentence_and_nothing_is_copied(entry, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**4))
    with pytest.raises(DataError, match=r"paths\.scratch: .* has 0\.00 GB free and the copies need 0\.00 GB"):
        stage_sources([entry], tmp_path / "scratch" / "deep")
    assert not (tmp_path / "scratch").exists()


def test_what_a_killed_copy_left_is_cleared_away(entry, tmp_path):
    scratch = tmp_path / "scratch"
    leftover = scratch / entry["digest"] / ".x.jsonl.partial-123"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    stage_sources([entry], scratch)
    assert files_in(scratch) == ["x.jsonl"]


@pytest.mark.parametrize("scratch", [None, "scratch"])
def test_the_quickstart_is_written_by_content(tmp_path, scratch):
    place = scratch and tmp_path / scratch
    (source,) = stage_sources([BUILTIN], place, tmp_path / "work")
    path = ensure_staged(source, place, tmp_path / "work")
    assert path.read_bytes() == b"".join(quickstart_lines())
    assert (source.path, source.digest) == ("builtin:quickstart", file_digest(path))
    assert path.parent == (place or tmp_path / "work" / "builtin") / source.digest


def test_a_missing_source_is_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        stage_sources([{"path": str(tmp_path / "no.jsonl"), "digest": "0" * 32}], None)
