"""Runs that are published to a real S3 server: what is uploaded, in which order, and what a break leaves."""

import json
import os
from pathlib import Path

import pytest

from snaketune.core.digests import file_digest
from snaketune.core.errors import ConfigError, DataError
from snaketune.core.manifest import write_manifest
from snaketune.core.outputs import record_outputs
from snaketune.publish import uploading
from snaketune.publish.hub_upload import check_destination
from snaketune.publish.publishing import publish_folder
from snaketune.storage.object_storage import connect, listed_objects

pytest_plugins = ("object_store",)
BUCKET = "data"
URL = f"s3://{BUCKET}/tuned/runs/one/lora-1"


@pytest.fixture
def folder(tmp_path):
    """A run's folder with an adapter, its manifest and a report."""
    made = tmp_path / "results" / "one" / "lora-1"
    (made / "adapter").mkdir(parents=True)
    (made / "adapter" / "weights.bin").write_bytes(bytes(range(256)) * 2000)
    (made / "report.html").write_text("<p>fine</p>")
    (made / ".hidden").write_text("not for others")
    (made / "empty.jsonl").write_bytes(b"")
    seal(made)
    return made


def seal(folder):
    write_manifest(folder / "adapter.manifest.json", "train_model", [folder / "adapter"], {})


def publish(folder, client=None):
    work = folder.parents[2] / "work"
    said = []
    done = publish_folder(client or connect(), folder, URL, work, said.append)
    return done, [text.split()[1].removeprefix(f"{URL}/") for text in said]


def stored(client, url=f"s3://{BUCKET}/"):
    contents = {}
    for one in listed_objects(client, url):
        key = one.url.removeprefix(f"s3://{BUCKET}/")
        contents[one.url.removeprefix(f"{URL}/")] = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return contents


def changes(line):
    """What was written and removed, in order."""
    found = [request.split()[:2] for request in line.requests if request.startswith((b"PUT", b"DELETE"))]
    return [f"{verb.decode()} {path.decode().partition('lora-1/')[2]}" for verb, path in found]


def test_all_of_a_run_is_there_and_the_list_of_it_comes_last(storage, line, folder):
    done, said = publish(folder)
    names = ["adapter/weights.bin", "empty.jsonl", "report.html", "adapter.manifest.json", "published.json"]
    assert said == names and changes(line) == [f"PUT {name}" for name in names]
    there = stored(storage)
    index = json.loads(there.pop("published.json"))["files"]
    assert there == {name: (folder / name).read_bytes() for name in names[:-1]}
    assert index == {
        name: {"bytes": (folder / name).stat().st_size, "digest": file_digest(folder / name)} for name in names[:-1]
    }
    assert (done.files, done.total, done.bytes) == (4, 4, sum(map(len, there.values())))


def test_what_is_there_is_not_uploaded_again(storage, line, folder):
    publish(folder)
    line.requests.clear()
    assert publish(folder)[1] == [] and changes(line) == []
    (folder / "report.html").write_text("<p>better</p>")
    assert publish(folder)[1] == ["report.html", "published.json"]
    assert stored(storage)["report.html"] == b"<p>better</p>"


def test_no_manifest_is_there_while_its_files_change(storage, line, folder):
    publish(folder)
    (folder / "adapter" / "weights.bin").write_bytes(b"other")
    seal(folder)
    line.requests.clear()
    publish(folder)
    assert changes(line) == [
        "DELETE adapter.manifest.json",
        "DELETE published.json",
        "PUT adapter/weights.bin",
        "PUT adapter.manifest.json",
        "PUT published.json",
    ]


def test_a_break_leaves_no_manifest_without_its_files_and_the_next_time_does_the_rest(storage, line, folder):
    (folder / "adapter" / "another.bin").write_bytes(b"x" * 500_000)
    seal(folder)
    line.drop, line.after = 1000, 400_000
    with pytest.raises(DataError, match=r"another\.bin: http://127\S+ cannot be reached \(\w+\): check the network"):
        publish(folder)
    assert stored(storage) == {}
    line.drop = 0
    (folder / "adapter" / "weights.bin").rename(folder / "adapter" / "weights.safetensors")
    seal(folder)
    line.dies_after = line.sent + 2000
    with pytest.raises(DataError, match=r"cannot be reached"):
        publish(folder)
    assert not [name for name in stored(storage) if name.endswith("json")]
    line.dies_after = None
    before = set(stored(storage))
    assert before and not before.intersection(publish(folder)[1])


def test_a_broken_upload_is_sent_again(storage, line, folder):
    line.drop, line.after = 1, 400_000
    publish(folder)
    assert line.drop == 0 and stored(storage)["adapter/weights.bin"] == (folder / "adapter/weights.bin").read_bytes()


@pytest.mark.parametrize("part_bytes", [uploading.PART_BYTES, 100_000])
def test_an_upload_that_is_damaged_on_the_way_is_taken_away_and_refused(storage, line, folder, monkeypatch, part_bytes):
    monkeypatch.setattr(uploading, "PART_BYTES", part_bytes)
    line.spoil, line.after = 1, 60_000
    with pytest.raises(DataError, match=r"weights\.bin does not match the uploaded file \S+: run the same command"):
        publish(folder)
    assert stored(storage) == {}


def test_a_large_file_goes_in_parts(storage, line, folder, monkeypatch):
    monkeypatch.setattr(uploading, "PART_BYTES", 100_000)
    publish(folder)
    assert stored(storage)["adapter/weights.bin"] == (folder / "adapter/weights.bin").read_bytes()
    assert sum(b"partNumber=" in request for request in line.requests) == 6
    assert publish(folder)[1] == []


def test_a_file_that_changes_while_it_is_uploaded_is_refused(storage, folder, monkeypatch):
    path = folder / "adapter" / "weights.bin"
    for part_bytes in (uploading.PART_BYTES, 100_000):
        monkeypatch.setattr(uploading, "PART_BYTES", part_bytes)
        with pytest.raises(DataError, match=r"weights\.bin changed while it was uploaded: run the same command again"):
            uploading.upload(storage, path, f"{URL}/x", "0" * 32)
    assert stored(storage) == {}
    assert "Uploads" not in storage.list_multipart_uploads(Bucket=BUCKET)


def test_where_tags_are_no_digests_the_object_is_read_back(storage, folder, monkeypatch):
    path, real = folder / "report.html", storage.put_object
    monkeypatch.setattr(storage, "put_object", lambda **options: real(**options) | {"ETag": '"0"'})
    uploading.upload(storage, path, f"{URL}/x", file_digest(path))
    assert stored(storage) == {"x": path.read_bytes()}


def test_what_is_no_longer_there_goes_and_what_others_put_there_stays(storage, folder):
    publish(folder)
    storage.put_object(Bucket=BUCKET, Key="tuned/runs/one/lora-1/note.txt", Body=b"mine")
    (folder / "empty.jsonl").unlink()
    done, said = publish(folder)
    assert said == ["published.json"] and done.removed == 1
    assert "empty.jsonl" not in stored(storage) and stored(storage)["note.txt"] == b"mine"


def test_a_damaged_run_is_not_published(storage, folder):
    (folder / "adapter" / "weights.bin").write_bytes(b"damaged")
    with pytest.raises(
        DataError,
        match=r"weights\.bin does not have .*: adapter\.manifest\.json was removed; run the same",
    ):
        publish(folder)
    assert stored(storage) == {}


def test_damage_that_publishing_finds_is_marked_for_the_next_command(storage, folder):
    weights = folder / "adapter" / "weights.bin"
    before = weights.stat()
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match="to rebuild the stage"):
        publish(folder)
    assert not (folder / "adapter.manifest.json").exists()


def test_an_edited_fact_is_not_published(storage, folder, monkeypatch):
    monkeypatch.chdir(folder.parents[2])
    folder = folder.relative_to(folder.parents[2])
    facts = folder / "evaluation.json"
    facts.write_text('{"tuned": {"loss": 2.0}}')
    record_outputs([facts])
    facts.write_text('{"tuned": {"loss": 1.0}}')
    publish_folder(connect(), folder, URL, Path("work"))
    assert stored(storage)["evaluation.json"] == b'{"tuned": {"loss": 2.0}}'


def test_a_destination_is_looked_at_before_anything_is_computed(storage, monkeypatch):
    check_destination(f"s3://{BUCKET}/anything")
    with pytest.raises(ConfigError, match=r"^paths\.publish is null: set it to hf://owner/name or s3://bucket/path"):
        check_destination(None)
    with pytest.raises(ConfigError, match=r"^paths\.publish: s3://nowhere/x/ at \S+ no such bucket, nowhere"):
        check_destination("s3://nowhere/x")
    with pytest.raises(ConfigError, match=r"^paths\.publish: 'tuned/' names no bucket: write s3://bucket/path"):
        check_destination("tuned")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"^paths\.publish: s3://\S+ is in object .*pip install -r envs/extras/storage"
    ):
        check_destination(f"s3://{BUCKET}/x")
