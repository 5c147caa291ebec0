"""Results of an earlier stage are copied to a node's own disk when they lie on a network file system, and only then."""

from pathlib import Path

import pytest

from snaketune.core.digests import file_digest
from snaketune.core.errors import DataError
from snaketune.storage.disks import Disk, Disks
from snaketune.storage.staging import ensure_near


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "far" / "rows"
    folder.mkdir(parents=True)
    for name in ("train.arrow", "eval.arrow"):
        (folder / name).write_bytes(name.encode() * 1000)
    return folder


def files_of(folder):
    return {path.name: {"bytes": path.stat().st_size, "digest": file_digest(path)} for path in folder.iterdir()}


def disks(tmp_path, kind):
    """A machine whose folder ``far`` is on a file system of this kind, and everything else on a disk of its own."""

    def find(path):
        return Disk(1, kind) if Path(path).is_relative_to(tmp_path / "far") else Disk(2, "ext4")

    return Disks([], tmp_path / "disks.json", find, None, lambda path: 10**12)


def test_from_a_network_they_are_copied_once(tmp_path, folder):
    files, scratch = files_of(folder), tmp_path / "scratch"
    near = ensure_near(folder, files, scratch, tmp_path, disks(tmp_path, "nfs4"))
    assert set(near) == {"train.arrow", "eval.arrow"}
    for name, place in near.items():
        assert scratch in place.parents
        assert place.read_bytes() == (folder / name).read_bytes()
    (folder / "train.arrow").unlink()
    assert ensure_near(folder, files, scratch, tmp_path, disks(tmp_path, "nfs4")) == near


@pytest.mark.parametrize(("scratch", "kind"), [("scratch", "ext4"), (None, "nfs4")])
def test_from_a_disk_of_the_node_or_without_scratch_they_are_read_in_place(tmp_path, folder, scratch, kind):
    near = ensure_near(folder, files_of(folder), scratch and tmp_path / scratch, tmp_path, disks(tmp_path, kind))
    assert near == {name: folder / name for name in ("train.arrow", "eval.arrow")}


def test_a_file_that_is_not_what_was_made_is_refused(tmp_path, folder):
    files = files_of(folder)
    (folder / "eval.arrow").write_bytes(b"x" * files["eval.arrow"]["bytes"])
    with pytest.raises(DataError, match=r"eval\.arrow"):
        ensure_near(folder, files, tmp_path / "scratch", tmp_path, disks(tmp_path, "nfs4"))
