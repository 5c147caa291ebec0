import json
import os
import socket
import time

import pytest

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.content_cache import SETTLED_NS
from snaketune.core.errors import ConfigError
from snaketune.core.manifest import write_manifest
from snaketune.workflow.lifecycle import explain_failure
from snaketune.workflow.results.damage import drop_damaged_manifests
from snaketune.workflow.results.latest_link import point_latest
from snaketune.workflow.results.pruning import find_unused, find_unused_work, remove
from snaketune.workflow.sources.inputs import ExternalInputs, expand_paths


def test_globs_are_expanded_in_order_and_no_file_comes_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.jsonl", "a.jsonl", "c $(x).jsonl.gz"):
        (tmp_path / name).touch()
    assert expand_paths(["b.jsonl", "*.jsonl"]) == ["b.jsonl", "a.jsonl"]
    assert expand_paths(["c $(x).jsonl.gz"]) == ["c $(x).jsonl.gz"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nothing.jsonl", "does not exist"),
        ("*.none", "does not exist"),
        ("folder", "is a folder without data files .*: found notes.md"),
        ("test-only", "has no train split: write `split:` with one of those it has: test"),
        ("pipe", "is not a regular file .a named pipe.: name a regular file"),
        ("socket", "is not a regular file .a socket."),
        ("/dev/zero", "is not a regular file .a device."),
        ("dangling", "is a link to gone, which does not exist"),
        ("p*", "is not a regular file"),
        ("fold*", "matches only folders"),
        ("$SNAKETUNE_UNSET/x", "the variable SNAKETUNE_UNSET is not set"),
        ("~nosuchuser/x", "no such home folder"),
        ("builtin:other", "builtin:quickstart"),
    ],
)
def test_sources_that_cannot_be_read_end_in_a_sentence(tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    for name in ("folder/notes.md", "test-only/test.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("gone")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    with pytest.raises(ConfigError, match=words):
        expand_paths([source])


def test_content_of_a_model_folder_changes_what_depends_on_it_and_no_more(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (tmp_path / "a.jsonl").touch()
    stages = ("prepare_tokenizer", "prepare_model", "tokenize_records")

    def outside(**model):
        file = {"data": {"sources": [str(tmp_path / "a.jsonl")]}, "model": {"name_or_path": str(folder), **model}}
        (run,) = resolve_runs(Layer("c", file), {}, tmp_path)
        inputs = ExternalInputs(tmp_path / "cache.json")
        inputs.look_up(run.config)
        return {stage: inputs.outside(stage, run.config) for stage in stages}

    def changed(name, **model):
        before = outside(**model)
        (folder / name).write_text(f"{name} {len(before)} {before}")
        after = outside(**model)
        return {stage for stage in stages if before[stage] != after[stage]}

    weights, everything = {"prepare_model"}, {"prepare_model", "prepare_tokenizer"}
    assert changed("model.safetensors") == changed("model.safetensors") == weights
    assert changed("model.safetensors.index.json") == changed("README.md") == changed("code.py") == weights
    assert changed("tokenizer.json") == changed("chat_template.jinja") == changed("config.json") == everything
    assert changed("code.py", trust_remote_code=True) == everything


@pytest.mark.parametrize("damage", ["delete", "edit", "truncate"])
def test_the_manifest_of_a_damaged_stage_is_dropped(tmp_path, damage, capsys):
    data, manifest = tmp_path / "data", tmp_path / "manifest.json"
    data.write_text("content")
    write_manifest(manifest, "stage", [data], {})
    drop_damaged_manifests([str(manifest)], tmp_path / "cache.json")
    assert manifest.is_file()
    if damage == "delete":
        data.unlink()
    else:
        data.write_text("contenX" if damage == "edit" else "cont")
        os.utime(data, ns=(manifest.stat().st_mtime_ns + 1, manifest.stat().st_mtime_ns + 1))
    drop_damaged_manifests([str(manifest)], tmp_path / "cache.json")
    assert not manifest.exists()
    assert "data was deleted or changed" in capsys.readouterr().err


def test_a_touched_file_with_equal_content_is_not_damaged(tmp_path):
    data, manifest = tmp_path / "data", tmp_path / "manifest.json"
    data.write_text("content")
    write_manifest(manifest, "stage", [data], {})
    os.utime(data, (4_000_000_000, 4_000_000_000))
    drop_damaged_manifests([str(manifest)], tmp_path / "cache.json")
    assert manifest.is_file()


def test_a_manifest_that_is_not_json_is_damaged(tmp_path):
    manifest = tmp_path / "manifest.json"
    manifest.write_text('{"files": {')
    drop_damaged_manifests([str(manifest)], tmp_path / "cache.json")
    assert not manifest.exists()


def test_latest_points_at_the_current_folder_once_its_report_is_there(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    point_latest(tmp_path, "new")
    assert not (tmp_path / "latest").exists()
    for name in ("old", "new"):
        (tmp_path / name / "report.html").touch()
        point_latest(tmp_path, name)
        assert (tmp_path / "latest").resolve().name == name


def test_a_failure_ends_with_the_jobs_sentence_its_log_and_the_next_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.log").write_text("progress\nDataError: a.jsonl is empty: fill it.\n")
    log = "rule a:\n    log: other.log\nError in rule read:\n    jobid: 1\n    log: job.log (check log file(s))\n"
    (tmp_path / "workflow.log").write_text(log)
    text = explain_failure([str(tmp_path / "workflow.log")], "snakemake --cores 8 train")
    assert text.splitlines() == [
        "",
        "DataError: a.jsonl is empty: fill it.",
        "Log: job.log",
        "To see how far each run got, as a page: snakemake --cores 1 report",
        "Finished results are kept. Once the cause is fixed, run: snakemake --cores 8 train",
    ]


def test_of_several_runs_a_failure_names_those_that_are_finished(tmp_path):
    def explained(**finished):
        (tmp_path / "workflow.log").write_text("Error in rule read:\n")
        return explain_failure([str(tmp_path / "workflow.log")], "snakemake", finished=finished)

    assert "Finished runs: b.\nUnfinished runs: a, c.\n" in explained(a=False, b=True, c=False)
    assert "Finished" not in explained(a=False, b=False).replace("Finished results", "")
    assert "runs:" not in explained(a=False)


@pytest.mark.parametrize(("later", "times"), [("", 0), ("Finished jobid: 4 (Rule: read)\n", 1)])
def test_a_sentence_that_was_just_printed_is_not_repeated(tmp_path, monkeypatch, later, times):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.log").write_text("DataError: a.jsonl is empty: fill it.\n")
    (tmp_path / "workflow.log").write_text(f"Error in rule read:\n    log: job.log (check log file(s))\n{later}")
    text = explain_failure([str(tmp_path / "workflow.log")], "snakemake --cores 8 train", is_local=True)
    assert text.count("DataError") == times
    assert "Log: job.log" in text


@pytest.mark.parametrize("ending", ["returned non-zero exit status 137.", "died with <Signals.SIGKILL: 9>."])
def test_a_job_that_was_killed_is_named_so(tmp_path, ending):
    (tmp_path / "workflow.log").write_text(f"Error in rule train_model:\nCommand 'set -e; python' {ending}\n")
    assert "A job was killed from outside" in explain_failure([str(tmp_path / "workflow.log")], "snakemake")
    (tmp_path / "workflow.log").write_text("Command 'x' returned non-zero exit status 1.\n")
    assert "killed" not in explain_failure([str(tmp_path / "workflow.log")], "snakemake")


def test_unused_variants_are_found_and_removed(tmp_path):
    for path in (
        "data/read_records/a-00000001",
        "data/read_records/b-00000002",
        "models/m-00000001",
        "models/m-00000002",
        "runs/x/r-00000001",
        "runs/x/r-00000002",
    ):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "file").write_text("12345")
    (tmp_path / "runs/x/latest").symlink_to("r-00000001")
    unused = find_unused(tmp_path, {"read_records/a-00000001", "prepare_model/m-00000001"}, {"x/r-00000002"})
    found = [(str(variant.path.relative_to(tmp_path)), variant.size) for variant in unused]
    assert found == [("data/read_records/b-00000002", 5), ("models/m-00000002", 5), ("runs/x/r-00000001", 5)]
    remove(unused)
    assert not (tmp_path / "runs/x/latest").is_symlink()
    assert (tmp_path / "data/read_records/a-00000001/file").is_file()


def test_the_state_of_trainings_that_no_run_uses_can_go(tmp_path):
    for name in ("aaa", "bbb"):
        (tmp_path / "work/runs" / name).mkdir(parents=True)
    run = tmp_path / "results/runs/x/r-1"
    run.mkdir(parents=True)
    assert find_unused_work(tmp_path / "work", tmp_path / "results", {"x/r-1"}) == []
    (run / "adapter.manifest.json").write_text('{"fingerprint": "aaa"}')
    (unused,) = find_unused_work(tmp_path / "work", tmp_path / "results", {"x/r-1"})
    assert unused.path.name == "bbb"


def test_the_cache_of_digests_is_plain_json(tmp_path):
    (tmp_path / "a.jsonl").write_text("x")
    time.sleep(2 * SETTLED_NS / 1e9)  # what was changed just now is not remembered
    file = {"data": {"sources": [str(tmp_path / "a.jsonl")]}, "model": {"name_or_path": "tiny"}}
    (run,) = resolve_runs(Layer("c", file), {}, tmp_path)
    inputs = ExternalInputs(tmp_path / "cache.json")
    inputs.look_up(run.config)
    inputs.save()
    assert len(json.loads((tmp_path / "cache.json").read_text())) == 1
