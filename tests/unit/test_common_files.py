import os
import subprocess
import sys
import time

import pytest

from snaketune.core import atomic
from snaketune.core.canonical import canonical_text, digest_of, read_json
from snaketune.core.content_cache import SETTLED_NS
from snaketune.core.digests import DigestCache, file_digest
from snaketune.core.errors import DataError
from snaketune.core.locks import try_lock
from snaketune.core.manifest import damaged_files, read_manifest, write_manifest


def test_canonical_json_does_not_depend_on_order():
    assert canonical_text({"b": 1, "a": [2.0]}) == canonical_text({"a": [2.0], "b": 1}) == '{"a":[2.0],"b":1}'


def test_values_without_a_stable_form_are_refused():
    with pytest.raises(TypeError):
        digest_of({"x": {1, 2}})


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    atomic.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic.writing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_failure_while_writing_a_folder_keeps_the_old_one(tmp_path):
    target = tmp_path / "folder"
    with atomic.writing_directory(target) as partial:
        (partial / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic.writing_directory(target) as partial:
        (partial / "a").write_text("new")
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_published_files_are_readable_as_the_umask_allows(tmp_path):
    with atomic.writing_directory(tmp_path / "folder") as partial:
        (partial / "a").touch(mode=0o600)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "folder" / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_manifests_are_the_same_bytes_wherever_they_are_made(tmp_path):
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "data").write_text("same")
        write_manifest(tmp_path / place / "manifest.json", "stage", [tmp_path / place / "data"], {"n": 1})
    one, two = ((tmp_path / place / "manifest.json").read_bytes() for place in ("one", "two"))
    assert one == two
    assert str(tmp_path).encode() not in one


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_is_found_before_use_and_the_stage_is_made_again(tmp_path, damage):
    data, manifest = tmp_path / "data", tmp_path / "manifest.json"
    data.write_bytes(b"content")
    write_manifest(manifest, "stage", [data], {})
    assert damaged_files(manifest) == []
    if damage == "delete":
        data.unlink()
    else:
        data.write_bytes(b"contenT" if damage == "flip" else b"con")
    with pytest.raises(DataError, match="same command again"):
        read_manifest(manifest)
    assert not manifest.exists()


def test_the_digest_cache_notices_new_content_under_an_older_mtime(tmp_path):
    path, cache = tmp_path / "data", DigestCache(tmp_path / "cache.json")
    path.write_text("one")
    first = cache.digest(path)
    cache.save()
    path.write_text("two")
    os.utime(path, (1, 1))
    again = DigestCache(tmp_path / "cache.json")
    assert again.digest(path) == file_digest(path) != first


def settle(path):
    """Wait until a change of the file would show in its ctime."""
    while time.time_ns() - path.stat().st_ctime_ns <= SETTLED_NS:
        time.sleep(0.01)


@pytest.mark.parametrize(("milliseconds", "is_known"), [(0, False), (12, False), (-12, False), (30, True), (-30, True)])
def test_a_file_that_was_just_changed_is_read_again(tmp_path, monkeypatch, milliseconds, is_known):
    """A second change within one step of the kernel's clock leaves size, mtime, inode and ctime as they were."""
    path = tmp_path / "data"
    path.write_text("one")
    made = path.stat().st_ctime_ns
    monkeypatch.setattr("snaketune.core.content_cache.time.time_ns", lambda: made + milliseconds * 1_000_000)
    cache = DigestCache(tmp_path / "cache.json")
    assert cache.digest(path) == file_digest(path)
    assert cache.knows(path) == is_known
    cache.save()
    assert DigestCache(tmp_path / "cache.json").knows(path) == is_known


def test_the_digest_cache_reads_a_touched_file_once_and_finds_it_equal(tmp_path):
    path, cache = tmp_path / "data", DigestCache(tmp_path / "cache.json")
    path.write_text("one")
    first = cache.digest(path)
    os.utime(path, (2_000_000_000, 2_000_000_000))
    assert not cache.knows(path)
    settle(path)
    assert cache.digest(path) == first
    assert cache.knows(path)


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    path = tmp_path / "lock"
    code = "import sys; from snaketune.core.locks import try_lock; l = try_lock(sys.argv[1]); print('held'); input()"
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "PYTHONUNBUFFERED": "1"}
    holder = subprocess.Popen([sys.executable, "-c", code, path], stdin=-1, stdout=-1, text=True, env=environment)
    assert holder.stdout.readline() == "held\n"
    assert try_lock(path) == (None, str(holder.pid))
    holder.kill()
    holder.wait()
    lock, _ = try_lock(path)
    assert lock is not None
