"""Several copies of the project with one results folder, and what killed jobs leave there."""

import json
import os
import time
from pathlib import Path

import pytest

from snaketune.common.atomic import sibling
from snaketune.common.locks import wait_for_lock
from snaketune.common.processes import this_place
from snaketune.config.leftovers import ABANDONED_SECONDS, find_leftovers, find_unsealed, sweep
from snaketune.config.owners import UNKNOWN, claim, name_of, owner_of, owners_of
from snaketune.config.pruning import account, find_left, find_unused, remove

GONE = 2**22 - 3


@pytest.fixture
def shared(tmp_path):
    """Results of two clones: one run each, one more that both used, and one that nobody's file names."""
    results = tmp_path / "results"
    for path in ("data/read_records/a-1", "runs/x/mine-1", "runs/x/old-1", "runs/x/theirs-2", "runs/x/lost-3"):
        (results / path).mkdir(parents=True)
        (results / path / "file").write_text("12345")
    claim(results, "mine", tmp_path / "mine", "config/config.yaml", ["runs/x/old-1"])
    claim(results, "mine", tmp_path / "mine", "config/config.yaml", ["runs/x/mine-1"])
    claim(results, "theirs", tmp_path / "theirs", "config/config.yaml", ["runs/x/theirs-2", "data/read_records/a-1"])
    return results


def test_prune_knows_whose_results_are_whose(shared):
    unused = find_unused(shared, set(), {"x/mine-1"}, "mine")
    found = {one.path.relative_to(shared).as_posix(): one.owner for one in unused}
    assert found == {
        "data/read_records/a-1": "theirs",
        "runs/x/old-1": "",
        "runs/x/theirs-2": "theirs",
        "runs/x/lost-3": UNKNOWN,
    }


def test_results_of_another_project_are_removed_only_by_its_name(shared, tmp_path):
    unused = find_unused(shared, set(), {"x/mine-1"}, "mine")
    lines = account(unused, [], owners_of(shared))
    assert "Remove them with: snakemake --cores 1 prune --config prune=yes" in lines
    assert any(f"belong to theirs ({tmp_path}/theirs, config/config.yaml, not here)" in line for line in lines)
    assert any(line.endswith("prune --config 'prune=[yes,theirs]'") for line in lines)
    removed = [one for one in unused if not one.owner]
    remove(removed)
    assert sorted(path.name for path in shared.glob("runs/x/*")) == ["lost-3", "mine-1", "theirs-2"]
    lines = account(unused, removed, owners_of(shared))
    assert not any("prune=yes" in line for line in lines)


def test_what_its_owner_made_and_uses_no_more_is_still_its_own(shared, tmp_path):
    claim(shared, "theirs", tmp_path / "theirs", "config/config.yaml", ["runs/x/new-4"])
    assert owner_of("runs/x/theirs-2", "mine", owners_of(shared)) == "theirs"


def test_a_project_alone_owns_everything(tmp_path):
    results = tmp_path / "results"
    (results / "runs/x/old-1").mkdir(parents=True)
    assert [one.owner for one in find_unused(results, set(), set(), "mine")] == [""]
    claim(results, "mine", tmp_path, "config.yaml", ["runs/x/new-2"])
    assert [one.owner for one in find_unused(results, set(), set(), "mine")] == [""]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"uses": 3, "made": 4}'])
def test_a_damaged_file_of_an_owner_protects_what_it_may_have_named(shared, tmp_path, content):
    (tmp_path / "results.owners" / "theirs.json").write_text(content)
    unused = find_unused(shared, set(), {"x/mine-1"}, "mine")
    assert {one.path.name: one.owner for one in unused}["theirs-2"] == UNKNOWN
    claim(shared, "theirs", Path("theirs"), "config.yaml", ["runs/x/theirs-2"])
    assert owner_of("runs/x/theirs-2", "mine", owners_of(shared)) == "theirs"


def test_a_copy_of_a_project_is_another_owner(tmp_path):
    name = name_of(tmp_path / "work", Path("/a/clone"), "config/config.yaml")
    assert name == name_of(tmp_path / "work", Path("/a/clone"), "config/config.yaml")
    others = {
        name_of(tmp_path / "work", Path("/b/clone"), "config/config.yaml"),
        name_of(tmp_path / "work", Path("/a/clone"), "other.yaml"),
        name_of(tmp_path / "elsewhere", Path("/a/clone"), "config/config.yaml"),
    }
    assert len(others | {name}) == 4
    assert all(other.startswith("clone-") for other in others)


def test_owners_are_not_noted_again_without_a_change(shared, tmp_path):
    before = (tmp_path / "results.owners" / "mine.json").stat().st_mtime_ns
    claim(shared, "mine", tmp_path / "mine", "config/config.yaml", ["runs/x/mine-1"])
    assert (tmp_path / "results.owners" / "mine.json").stat().st_mtime_ns == before


def leave(results, name, age=0.0):
    path = results / "runs/x/mine-1" / name
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"1" * 100)
    for one in (path / "model.safetensors", path):
        os.utime(one, (time.time() - age, time.time() - age))
    return path


def test_what_a_killed_process_left_is_swept(shared, tmp_path, capsys):
    gone = leave(shared, f".merged.partial-{this_place()}-{GONE}")
    old = leave(shared, f".model.partial-{GONE}")
    file = shared / "runs/x/mine-1" / f".facts.json.partial-{this_place()}-{GONE}"
    file.write_text("half")
    link = shared / "runs/x" / f".latest.partial-{this_place()}-{GONE}"
    link.symlink_to("nowhere")
    alive = leave(shared, sibling(Path("merged")).name)
    parent = leave(shared, f".other.partial-{this_place()}-{os.getppid()}")
    assert find_leftovers([shared]) == sorted([gone, old, file, link])
    sweep(shared, tmp_path / "work")
    assert not any(path.exists() or path.is_symlink() for path in (gone, old, file, link))
    assert alive.exists() and parent.exists()
    assert "removed what killed jobs had left: 4 partial results" in capsys.readouterr().err


def test_what_another_host_writes_is_left_alone_for_a_day(shared):
    young = leave(shared, f".merged.partial-node7.4026531836-{GONE}", ABANDONED_SECONDS / 2)
    old = leave(shared, f".model.partial-node7.4026531836-{GONE}", ABANDONED_SECONDS * 2)
    assert find_leftovers([shared]) == [old]
    (old / "still").write_text("written")
    assert find_leftovers([shared]) == [] and young.exists()


def test_a_checkpoint_in_the_making_is_left_only_while_its_training_runs(tmp_path):
    partial = tmp_path / "runs" / "f" / ".partial"
    (partial / "checkpoint-3").mkdir(parents=True)
    lock = wait_for_lock(tmp_path / "runs" / "f" / "lock")
    assert find_unsealed(tmp_path) == []
    lock.close()
    assert find_unsealed(tmp_path) == [partial]
    assert [one.path for one in find_left(tmp_path / "results", tmp_path)] == [partial]
    sweep(tmp_path / "results", tmp_path)
    assert not partial.exists()


def test_owners_files_are_plain_json_beside_the_results(shared, tmp_path):
    facts = json.loads((tmp_path / "results.owners" / "mine.json").read_text())
    assert facts["uses"] == ["runs/x/mine-1"] and facts["made"] == ["runs/x/mine-1", "runs/x/old-1"]
    assert sorted(path.name for path in shared.iterdir()) == ["data", "runs"]


def test_owners_are_noted_in_the_results_where_nothing_can_be_beside_them(tmp_path):
    (tmp_path / "results.owners").touch()
    (tmp_path / "results").mkdir()
    claim(tmp_path / "results", "mine", tmp_path, "config.yaml", ["runs/x/new-2"])
    assert [owner.name for owner in owners_of(tmp_path / "results")] == ["mine"]


def test_a_project_that_cannot_be_written_to_still_has_a_name(tmp_path):
    (tmp_path / "work").touch()
    assert name_of(tmp_path / "work", Path("/a/clone"), "config.yaml").startswith("clone-")
