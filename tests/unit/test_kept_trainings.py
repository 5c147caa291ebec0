"""A finished training that its workflow keeps is published again, and no other one."""

import json

import pytest

from snaketune.core.atomic import remove_tree
from snaketune.core.manifest import write_manifest
from snaketune.train.checkpoints import kept_trainings
from snaketune.train.checkpoints.kept_trainings import KEPT_FILES, KEPT_FOLDER, drop_kept, keep_trainings, put_back


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "adapter" / "deep").mkdir(parents=True)
    (folder / "adapter" / "weights").write_text("weights")
    (folder / "adapter" / "deep" / "more").write_text("more")
    for name in KEPT_FILES[:2]:
        (folder / name).write_text(name)
    write_manifest(folder / KEPT_FILES[2], "train_model", [folder / "adapter"], {"fingerprint": "f"})
    keep_trainings([folder])
    return folder


def remove_outputs(run):
    for name in ("adapter", *KEPT_FILES):
        remove_tree(run / name)


def content(run):
    return {str(path.relative_to(run)): path.read_text() for path in run.rglob("*") if path.is_file()}


def test_what_snakemake_removed_comes_back(run):
    before = {name: text for name, text in content(run).items() if not name.startswith(KEPT_FOLDER)}
    assert len(before) == 5
    remove_outputs(run)
    drop_kept([run])  # another command in between: it is all that there is
    keep_trainings([run])
    assert put_back(run, "f")
    assert content(run) == before
    assert not put_back(run, "f")


def test_another_identity_or_a_damaged_file_is_trained(run):
    remove_outputs(run)
    assert not put_back(run, "g")
    (run / KEPT_FOLDER / "adapter" / "weights").write_text("WEIGHTS")
    assert not put_back(run, "f")


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"fingerprint": "f"}), json.dumps({"files": {}})])
def test_a_manifest_that_is_none_keeps_and_publishes_nothing(run, text):
    (run / KEPT_FOLDER / KEPT_FILES[2]).write_text(text)
    assert not put_back(run, "f")
    remove_tree(run / KEPT_FOLDER)
    (run / KEPT_FILES[2]).write_text(text)
    keep_trainings([run])
    assert not (run / KEPT_FOLDER).exists()


def test_a_folder_that_cannot_be_written_is_said(run, monkeypatch, capsys):
    monkeypatch.setattr(kept_trainings, "writing_directory", refuse)
    keep_trainings([run])
    assert "cannot be kept while this workflow runs" in capsys.readouterr().err


def refuse(path):
    raise PermissionError(13, "Permission denied", str(path))


def test_a_finished_workflow_leaves_nothing_kept(run):
    drop_kept([run])
    assert not (run / KEPT_FOLDER).exists()
    assert (run / "adapter" / "weights").read_text() == "weights"
