"""Several copies of the project with one results folder, and what killed jobs leave there."""

import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from snaketune.core.atomic import sibling
from snaketune.core.locks import wait_for_lock
from snaketune.core.processes import this_place
from snaketune.data.similarity import removal
from snaketune.data.split import split_plan
from snaketune.workflow.results.leftovers import (
    ABANDONED_SECONDS,
    drop_shard_files,
    find_leftovers,
    find_unsealed,
    sweep,
)
from snaketune.workflow.results.owners import UNKNOWN_OWNER, claim, name_of_owner, owner_of, owners_of
from snaketune.workflow.results.pruning import account, find_left, find_unused, remove
from snaketune.workflow.startup import WorkflowFolders

GONE = 2**22 - 3


@pytest.fixture
def shared(tmp_path):
    """Results of two clones: one run each, one more that both used, and one that nobody's file names."""
    results = tmp_path / "results"
    for path in (
        "data/read_records/a-00000001",
        "runs/x/mine-00000001",
        "runs/x/old-00000001",
        "runs/x/theirs-00000002",
        "runs/x/lost-00000003",
    ):
        (results / path).mkdir(parents=True)
        (results / path / "file").write_text("12345")
    claim(results, "mine", tmp_path / "mine", "config/config.yaml", ["runs/x/old-00000001"])
    claim(results, "mine", tmp_path / "mine", "config/config.yaml", ["runs/x/mine-00000001"])
    claim(
        results,
        "theirs",
        tmp_path / "theirs",
        "config/config.yaml",
        ["runs/x/theirs-00000002", "data/read_records/a-00000001"],
    )
    return results


def test_prune_knows_whose_results_are_whose(shared):
    unused = find_unused(shared, set(), {"x/mine-00000001"}, "mine")
    found = {one.path.relative_to(shared).as_posix(): one.owner for one in unused}
    assert found == {
        "data/read_records/a-00000001": "theirs",
        "runs/x/old-00000001": "",
        "runs/x/theirs-00000002": "theirs",
        "runs/x/lost-00000003": UNKNOWN_OWNER,
    }


def test_results_of_another_project_are_removed_only_by_its_name(shared, tmp_path):
    unused = find_unused(shared, set(), {"x/mine-00000001"}, "mine")
    lines = account(unused, [], owners_of(shared))
    assert "Remove them with: snakemake --cores 1 prune --config prune=yes" in lines
    assert any(f"belong to theirs ({tmp_path}/theirs, config/config.yaml, not here)" in line for line in lines)
    assert any(line.endswith("prune --config 'prune=[yes,theirs]'") for line in lines)
    removed = [one for one in unused if not one.owner]
    remove(removed)
    assert sorted(path.name for path in shared.glob("runs/x/*")) == [
        "lost-00000003",
        "mine-00000001",
        "theirs-00000002",
    ]
    lines = account(unused, removed, owners_of(shared))
    assert not any("prune=yes" in line for line in lines)


def test_what_its_owner_made_and_uses_no_more_is_still_its_own(shared, tmp_path):
    claim(shared, "theirs", tmp_path / "theirs", "config/config.yaml", ["runs/x/new-00000004"])
    assert owner_of("runs/x/theirs-00000002", "mine", owners_of(shared)) == "theirs"


def test_folders_that_are_called_otherwise_are_not_ours(shared):
    others = {"models/llama-7b", "data/notes/2024", "runs/x/my-notes", "runs/old/checkpoint-500", "models/Qwen3-0.6B"}
    for path in (*others, "models/m-0123abcd"):
        (shared / path).mkdir(parents=True)
    found = {one.path.relative_to(shared).as_posix() for one in find_unused(shared, set(), set(), "mine")}
    assert "models/m-0123abcd" in found and not found & others


def test_a_project_alone_owns_everything(tmp_path):
    results = tmp_path / "results"
    (results / "runs/x/old-00000001").mkdir(parents=True)
    assert [one.owner for one in find_unused(results, set(), set(), "mine")] == [""]
    claim(results, "mine", tmp_path, "config.yaml", ["runs/x/new-00000002"])
    assert [one.owner for one in find_unused(results, set(), set(), "mine")] == [""]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"uses": 3, "made": 4}'])
def test_a_damaged_file_of_an_owner_protects_what_it_may_have_named(shared, tmp_path, content):
    (tmp_path / "results.owners" / "theirs.json").write_text(content)
    unused = find_unused(shared, set(), {"x/mine-00000001"}, "mine")
    assert {one.path.name: one.owner for one in unused}["theirs-00000002"] == UNKNOWN_OWNER
    claim(shared, "theirs", Path("theirs"), "config.yaml", ["runs/x/theirs-00000002"])
    assert owner_of("runs/x/theirs-00000002", "mine", owners_of(shared)) == "theirs"


def test_a_project_whose_work_was_removed_takes_over_what_was_its_own(shared, tmp_path):
    (before,) = (owner for owner in owners_of(shared) if owner.name == "mine")
    assert before.is_at(tmp_path / "mine", "config/config.yaml")
    assert not before.is_at(tmp_path / "mine", "other.yaml") and not before.is_at(tmp_path, "config/config.yaml")
    claim(shared, "mine-again", tmp_path / "mine", "config/config.yaml", ["runs/x/new-00000004"])
    claim(shared, "other", tmp_path / "mine", "other.yaml", ["runs/x/new-00000005"])
    owners = {owner.name: owner for owner in owners_of(shared)}
    assert sorted(owners) == ["mine-again", "other", "theirs"]
    assert owners["mine-again"].made == {"runs/x/mine-00000001", "runs/x/old-00000001", "runs/x/new-00000004"}


@pytest.mark.parametrize("gone", ["work", "work/project-id"])
def test_an_edit_is_undone_also_when_the_project_forgot_its_name(tmp_path, monkeypatch, capsys, gone):
    monkeypatch.chdir(tmp_path)
    run = Path("results/runs/x/mine-00000001")
    run.mkdir(parents=True)
    (run / "evaluation.json").write_text('{"loss": 2}')
    job_table = SimpleNamespace(
        results="results",
        scratch=None,
        runs=[],
        in_use=lambda: ([], ["x/mine-00000001"]),
        wanted_files=lambda: [str(run / "evaluation.json")],
        page="results/{}.html".format,
    )
    Path("results/compare.html").write_text("both")
    places = WorkflowFolders(job_table, Path("work"), "config.yaml")
    places.tidy()
    shutil.rmtree(gone) if gone == "work" else Path(gone).unlink()
    if gone == "work":
        places.heal(verify=False)
        places.tidy()
    (run / "evaluation.json").write_text('{"loss": 1}')
    Path("results/compare.html").write_text("one")
    places.heal(verify=False)
    assert (run / "evaluation.json").read_text() == '{"loss": 2}'
    assert Path("results/compare.html").read_text() == "both"
    assert capsys.readouterr().err.count("its content is restored") == 2


def test_a_project_of_another_machine_at_the_same_path_is_another(shared, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    claim(shared, "mine-again", tmp_path / "mine", "config/config.yaml", [])
    assert {"mine", "mine-again"} < {owner.name for owner in owners_of(shared)}


def test_a_copy_of_a_project_is_another_owner(tmp_path):
    name = name_of_owner(tmp_path / "work", Path("/a/clone"), "config/config.yaml")
    assert name == name_of_owner(tmp_path / "work", Path("/a/clone"), "config/config.yaml")
    others = {
        name_of_owner(tmp_path / "work", Path("/b/clone"), "config/config.yaml"),
        name_of_owner(tmp_path / "work", Path("/a/clone"), "other.yaml"),
        name_of_owner(tmp_path / "elsewhere", Path("/a/clone"), "config/config.yaml"),
    }
    assert len(others | {name}) == 4
    assert all(other.startswith("clone-") for other in others)


def test_owners_are_not_noted_again_without_a_change(shared, tmp_path):
    before = (tmp_path / "results.owners" / "mine.json").stat().st_mtime_ns
    claim(shared, "mine", tmp_path / "mine", "config/config.yaml", ["runs/x/mine-00000001"])
    assert (tmp_path / "results.owners" / "mine.json").stat().st_mtime_ns == before


def leave(results, name, age=0.0):
    path = results / "runs/x/mine-00000001" / name
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"1" * 100)
    for one in (path / "model.safetensors", path):
        os.utime(one, (time.time() - age, time.time() - age))
    return path


def test_what_a_killed_process_left_is_swept(shared, tmp_path, capsys):
    gone = leave(shared, f".merged.partial-{this_place()}-{GONE}")
    old = leave(shared, f".model.partial-{GONE}")
    file = shared / "runs/x/mine-00000001" / f".facts.json.partial-{this_place()}-{GONE}"
    file.write_text("half")
    link = shared / "runs/x" / f".latest.partial-{this_place()}-{GONE}"
    link.symlink_to("nowhere")
    alive = leave(shared, sibling(Path("merged")).name)
    parent = leave(shared, f".other.partial-{this_place()}-{os.getppid()}")
    assert find_leftovers([shared]) == sorted([gone, old, file, link])
    sweep(shared, tmp_path / "work")
    assert not any(path.exists() or path.is_symlink() for path in (gone, old, file, link))
    assert alive.exists() and parent.exists()
    assert "removed leftovers of killed jobs: 4 partial results" in capsys.readouterr().err


@pytest.mark.parametrize(("scratch", "job"), [(None, "split"), (None, "dedupe"), ("disk", "split"), ("disk", "dedupe")])
def test_what_a_killed_data_stage_left_is_swept_also_from_scratch(scratch, job, tmp_path, monkeypatch):
    left = []

    def killed(*arguments):
        folder = next(one for one in arguments if isinstance(one, Path) and one.is_dir())
        left.append(folder.with_name(folder.name.replace(f"-{os.getpid()}", f"-{GONE}")))
        shutil.copytree(folder, left[0])
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    for folder in ("work", "disk", "data/train-1"):
        Path(folder).mkdir(parents=True)
    records = Path("records.jsonl")
    records.touch()
    settings = {"scratch": scratch, "threads": 1, "work": "work"}
    paths = {name: Path("data/train-1") / name for name in ("train", "eval", "leaks", "removed", "kept", "duplicates")}
    if job == "split":
        monkeypatch.setattr(split_plan, "plan_sides", killed)
        outputs = {name: paths[name] for name in ("train", "eval", "leaks")}
        made = split_plan.SplitJob(
            "", "", {"split": {"test_size": 0.1, "seed": 0}}, settings, records, **outputs, manifest=Path("m")
        )
        run = split_plan.split
    else:
        monkeypatch.setattr(removal, "plan_removal", killed)
        outputs = {name: paths[name] for name in ("removed", "kept", "duplicates")}
        made = removal.DedupeJob("", "", {"dedupe": {}}, settings, records, [], [], **outputs, manifest=Path("m"))
        run = removal.dedupe
    with pytest.raises(KeyboardInterrupt):
        run(made)
    assert left[0].is_dir() and left[0].parent == Path(scratch or "work")
    sweep("results", "work", scratch)
    assert not left[0].exists()


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
    assert facts["uses"] == ["runs/x/mine-00000001"] and facts["made"] == [
        "runs/x/mine-00000001",
        "runs/x/old-00000001",
    ]
    assert sorted(path.name for path in shared.iterdir()) == ["data", "runs"]


def test_owners_are_noted_in_the_results_where_nothing_can_be_beside_them(tmp_path):
    (tmp_path / "results.owners").touch()
    (tmp_path / "results").mkdir()
    claim(tmp_path / "results", "mine", tmp_path, "config.yaml", ["runs/x/new-00000002"])
    assert [owner.name for owner in owners_of(tmp_path / "results")] == ["mine"]


def test_a_project_that_cannot_be_written_to_still_has_a_name(tmp_path):
    (tmp_path / "work").touch()
    assert name_of_owner(tmp_path / "work", Path("/a/clone"), "config.yaml").startswith("clone-")


def test_shards_that_a_killed_workflow_left_go_when_their_stage_is_finished(tmp_path):
    done, open_one = tmp_path / "tokenize_records" / "a", tmp_path / "tokenize_records" / "b"
    for folder in (done, open_one):
        (folder / "parts").mkdir(parents=True)
        (folder / "parts" / "1-of-3.part").write_text("rows")
    (done / "manifest.json").write_text("{}")
    (done / "sketches" / "2-of-3").mkdir(parents=True)
    (done / "sketches" / "2-of-3" / "hashes.npy").write_text("hashes")
    (done / "model").mkdir()
    (done / "model" / "model-00001-of-00002.safetensors").write_text("weights")
    drop_shard_files([done, open_one, tmp_path / "missing"])
    assert sorted(path.name for path in done.iterdir()) == ["manifest.json", "model"]
    assert len(list((done / "model").iterdir())) == 1
    assert (open_one / "parts" / "1-of-3.part").exists()
