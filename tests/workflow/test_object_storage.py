"""Sources and results in object storage through real Snakemake, against a real S3 server."""

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from project import CONFIG, VOLATILE_FILES, Project, record

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from object_store import BUCKET, environment, start_server

from snaketune.core.manifest import write_manifest

FACTS = Path(__file__).parents[1] / "golden" / "report" / "facts"
REMOTE = f"s3://{BUCKET}/in/train.jsonl"
# What names the sources.
OF_ADDRESS = {"stage_sources/stage.json", "stage_sources/manifest.json", "read_records/manifest.json"}
PREPARATION = ("stage_sources", "read_records", "dedupe_records", "split_records")
DATA = {*PREPARATION, "prepare_tokenizer", "tokenize_records", "rightsize", "pack_rows"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    running, endpoint = start_server()
    folder = tmp_path_factory.mktemp("storage")
    made = Project(folder, CONFIG.replace("data/train.jsonl", REMOTE) + "merge: {enabled: false}\n")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in environment(endpoint, folder).items():
            monkeypatch.setenv(name, value)
        yield made
    running.stop()


def data_of(project):
    """The files of results/data by stage and name, without the ids, which cover the addresses of the sources."""
    data = project.folder / "results" / "data"
    parts = {
        path: path.relative_to(data).parts
        for path in data.rglob("*")
        if path.is_file() and path.name not in VOLATILE_FILES
    }
    return {f"{stage}/{'/'.join(rest)}": path.read_bytes() for path, (stage, _, *rest) in parts.items()}


def finish(project):
    """Put what a run ends in into its folder, as if it had been trained, and return the folder.

    All files are of one instant, so that none of them is older than what it would have been made from.
    """
    project.run("train", "-n")
    target = project.output[project.output.index("rule train:") :]
    wanted = set(re.findall(r"results/runs/one/([\w.-]+)/([\w.-]+)", target))
    (id,) = {id for id, _ in wanted}
    folder = project.folder / "results" / "runs" / "one" / id
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(bytes(100_000))
    (folder / "adapter" / "README.md").write_text("{}")  # the card
    for _, name in wanted:
        # Facts that their readers take; what is not among them is no fact file, or may be empty.
        golden = FACTS / name
        (folder / name).write_bytes(
            golden.read_bytes() if golden.is_file() else b"" if name.endswith(".jsonl") else b"{}"
        )
    write_manifest(folder / "adapter.manifest.json", "train_model", [folder / "adapter"], {})
    now = time.time_ns()
    for path in (path for path in folder.rglob("*") if path.is_file()):
        os.utime(path, ns=(now, now))
    return folder


def test_objects_make_the_same_bytes_as_files_and_runs_are_published_when_asked_for(project):
    from snaketune.storage.object_storage import connect, listed_objects

    content = "".join(record(number) + "\n" for number in range(300)).encode()
    client = connect()
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="in/train.jsonl", Body=content)

    # Nothing is computed before it is clear where it goes.
    project.run("publish", expect=1)
    assert "ConfigError: paths.publish is null" in project.output and "Finished" not in project.output

    # An equal upload is not a change; other content is.
    assert project.run("data") == DATA
    remote = data_of(project)
    client.put_object(Bucket=BUCKET, Key="in/train.jsonl", Body=content)
    assert project.run("data") == set()
    assert [one.url for one in listed_objects(client, f"s3://{BUCKET}/")] == [REMOTE]

    assert project.run("train", "--until", "prepare_model") == {"prepare_model"}
    run = finish(project)
    publish = ("publish", "--config", f"paths={{publish: s3://{BUCKET}/tuned}}", "--rerun-triggers", "mtime")
    assert project.run(*publish) == {"publish"}
    place = f"s3://{BUCKET}/tuned/runs/one/{run.name}/"
    found = {one.url.removeprefix(place): one.bytes for one in listed_objects(client, place)}
    index = json.loads(client.get_object(Bucket=BUCKET, Key=f"tuned/runs/one/{run.name}/published.json")["Body"].read())
    assert set(found) == {*index["files"], "published.json"} > {"adapter/adapter_model.safetensors", "report.html"}
    assert all(found[name] == (run / name).stat().st_size for name in index["files"])
    assert project.run(*publish) == {"publish"}
    assert " 0 of " in project.output and "Uploading" not in project.output

    client.put_object(Bucket=BUCKET, Key="in/train.jsonl", Body=content.replace(b"follows 7", b"follows 8", 1))
    project.run("data", "-n")
    assert "Staging sources" in project.output

    shutil.rmtree(project.folder / "results" / "data")
    project.raw.write_bytes(content)
    project.edit("config/config.yaml", REMOTE, "data/train.jsonl")
    assert project.run("train", "--until", "pack_rows") == DATA  # beyond the checkpoint
    local = data_of(project)
    assert {name for name in remote.keys() | local.keys() if remote.get(name) != local.get(name)} == OF_ADDRESS
    for name in OF_ADDRESS - {"stage_sources/manifest.json"}:  # which has the digest of stage.json
        assert local[name].replace(b"data/train.jsonl", REMOTE.encode()) == remote[name]

    written = [path for path in project.folder.rglob("*") if path.is_file()]
    assert not [path for path in written if b"secret-of-the-tests" in path.read_bytes()]
