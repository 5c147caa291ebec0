"""Sources in object storage, against a real S3 server in this process and a line to it that breaks."""

import hashlib
import json
import random
import threading
import time

import pytest
from data_files import PAIR

from snaketune.config.schema import LinkedConfig
from snaketune.core.digests import file_digest
from snaketune.core.errors import ConfigError, DataError
from snaketune.storage import fetching, object_storage, remote_copies
from snaketune.storage.disks import Disk, Disks, DiskSpeed
from snaketune.storage.fetching import fetch
from snaketune.storage.object_checks import check_of
from snaketune.storage.object_storage import Address, StoredObject, connect, describe_object
from snaketune.storage.remote_copies import as_entry
from snaketune.storage.staging import ensure_staged, stage_sources
from snaketune.workflow.sources.inputs import ExternalInputs, expand_paths
from snaketune.workflow.sources.remote_sources import RemoteSources, translate

pytest_plugins = ("object_store",)
BUCKET = "data"
CONTENT = PAIR * 1000
URL = f"s3://{BUCKET}/in/x.jsonl"
PART = 700_000
SIZE = (5 << 20) // 2


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(fetching, "FETCHED_PART_BYTES", 1 << 20)


def put(client, url=URL, content=CONTENT, **options):
    address = Address.of(url)
    client.put_object(Bucket=address.bucket, Key=address.key, Body=content, **options)
    return describe_object(client, url)


def put_in_parts(client, content, url=URL, size=PART):
    own = {"Bucket": Address.of(url).bucket, "Key": Address.of(url).key}
    own["UploadId"] = client.create_multipart_upload(**own)["UploadId"]
    pieces = [content[place : place + size] for place in range(0, len(content), size)]
    parts = [
        {"PartNumber": number, "ETag": client.upload_part(**own, PartNumber=number, Body=piece)["ETag"]}
        for number, piece in enumerate(pieces, 1)
    ]
    client.complete_multipart_upload(**own, MultipartUpload={"Parts": parts})
    return describe_object(client, url)


def large(size=SIZE):
    return random.Random(7).randbytes(size)


def fetched(found, tmp_path, client=None):
    """Fetch an object and return what arrived and its content, then remove it."""
    place = tmp_path / "x.partial"
    arrived = fetch(client or connect(), found, place, lambda size: None)
    content = place.read_bytes()
    place.unlink()
    return arrived, content


def found_by(tmp_path, *patterns, **options):
    remote = RemoteSources(tmp_path / "remote.json", **options)
    found = ExternalInputs(tmp_path / "digests.json", remote)
    config = LinkedConfig.model_validate({"data": {"sources": list(patterns)}, "model": {"name_or_path": "tiny"}})
    found.look_up(config)
    found.save()
    return found.outside("stage_sources", config)["sources"]


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith("lock"))


# What is there


def test_an_object_is_known_by_size_and_tag_without_being_read(storage, line, tmp_path):
    put(storage, content=large())
    [entry] = found_by(tmp_path, URL)
    assert entry == {"path": URL, "bytes": SIZE, "digest": f"etag {hashlib.md5(large()).hexdigest()}"}
    assert all(request.startswith(b"HEAD") for request in line.requests)


def test_patterns_find_objects_as_they_find_files(storage, tmp_path, monkeypatch):
    names = ["a.jsonl", "b/a.jsonl", "b/c/d.jsonl.gz", "b/note.txt", "b/x[1].jsonl", "b/.hidden.jsonl", "b/folder/"]
    for name in names:
        put(storage, f"s3://{BUCKET}/in/{name}")
        if not name.endswith("/"):
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    for pattern in ("*.jsonl", "**/*.jsonl", "*/[!x]*.jsonl", "b/?.jsonl", "b/x[1].jsonl", "b/c/*.gz"):
        remote = [entry["path"] for entry in found_by(tmp_path, f"s3://{BUCKET}/in/{pattern}")]
        assert remote == [f"s3://{BUCKET}/{path}" for path in expand_paths([f"in/{pattern}"])], pattern
    both = found_by(tmp_path, f"s3://{BUCKET}/in/b/a.jsonl", "in/a.jsonl", f"s3://{BUCKET}/in/b/[a]*.jsonl")
    assert [entry["path"] for entry in both] == [f"s3://{BUCKET}/in/b/a.jsonl", "in/a.jsonl"]


def test_a_folder_of_objects_is_its_data_files_and_what_is_left_out_is_said(storage, tmp_path):
    names = ("train-0.jsonl", "more/train-1.csv", "test.jsonl", "README.md", ".cache/train.jsonl", "dataset_infos.json")
    for name in names:
        put(storage, f"s3://{BUCKET}/set/{name}")
    for address in (f"s3://{BUCKET}/set", f"s3://{BUCKET}/set/"):
        found = [entry["path"] for entry in found_by(tmp_path, address)]
        assert found == [f"s3://{BUCKET}/set/more/train-1.csv", f"s3://{BUCKET}/set/train-0.jsonl"]
    remote = RemoteSources(tmp_path / "remote.json")
    remote.find(f"s3://{BUCKET}/set", "data.sources")
    assert "the files of other splits are left out: test.jsonl" in next(iter(remote.notes))
    [held_out] = found_by(tmp_path, {"path": f"s3://{BUCKET}/set", "split": "test"})
    assert held_out["path"] == f"s3://{BUCKET}/set/test.jsonl"


def test_a_pattern_is_no_other_regular_expression():
    assert translate("a.b/*[]^]?**") == r"a\.b/[^/]*(?!/)[]^][^/].*\Z"


def test_a_page_of_the_list_is_not_all_of_it(storage, tmp_path, monkeypatch):
    for number in range(5):
        put(storage, f"s3://{BUCKET}/in/{number}.jsonl")
    make = storage.get_paginator("list_objects_v2").paginate

    class Paginator:
        def paginate(self, **options):
            return make(**options, PaginationConfig={"PageSize": 2})

    monkeypatch.setattr(storage, "get_paginator", lambda name: Paginator())
    assert len(found_by(tmp_path, f"s3://{BUCKET}/in/*.jsonl", connect=lambda: storage)) == 5


def test_equal_content_under_the_same_tag_is_the_same_and_other_content_is_not(storage, tmp_path):
    put(storage)
    [first] = found_by(tmp_path, URL)
    put(storage)
    assert found_by(tmp_path, URL) == [first]
    put(storage, content=CONTENT[:-2] + b" \n")
    [second] = found_by(tmp_path, URL)
    assert second["digest"] != first["digest"] and second["bytes"] == first["bytes"]


def test_a_job_takes_what_its_workflow_found_and_asks_nothing(storage, tmp_path):
    put(storage)
    entries = found_by(tmp_path, f"s3://{BUCKET}/in/*.jsonl")

    def refuse():
        raise AssertionError("a job asked the storage")

    assert found_by(tmp_path, f"s3://{BUCKET}/in/*.jsonl", is_asking=False, connect=refuse) == entries


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (f"s3://{BUCKET}/in/nothing.jsonl", r"in/nothing\.jsonl at http://127\S+ does not exist: check the path\.$"),
        (f"s3://{BUCKET}/in/*.json", r"in/\*\.json matches no object: check the pattern"),
        (f"s3://{BUCKET}/notes", r"/notes is a folder without data files: found note\.txt\.$"),
        (f"s3://{BUCKET}/out/", r"/out/ is a folder without data files: found nothing"),
        ({"path": f"s3://{BUCKET}/in/*.txt", "split": "test"}, r"has no splits: remove `split: test`"),
        ("s3://nowhere/x.jsonl", r"no such bucket, nowhere: check its name and AWS_ENDPOINT_URL"),
        ("s3:///x.jsonl", r"names no bucket: write s3://bucket/path"),
        ("s3://No Bucket/x.jsonl", r"No Bucket/x\.jsonl cannot be requested \(ParamValidationError\)"),
        ("gs://bucket/x.jsonl", r"gs:// is not supported: name a file or, in data\.sources, an object s3://"),
    ],
)
def test_what_cannot_be_found_is_one_sentence(storage, tmp_path, source, sentence):
    put(storage)
    put(storage, f"s3://{BUCKET}/in/note.txt")
    put(storage, f"s3://{BUCKET}/notes/note.txt")
    with pytest.raises(ConfigError, match=f"^data.sources: .*{sentence}") as caught:
        found_by(tmp_path, source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["evaluate.files", "split.decontaminate"])
def test_other_files_are_not_read_from_object_storage(key, tmp_path):
    section, name = key.split(".")
    values = {"data": {"sources": ["builtin:quickstart"]}, "model": {"name_or_path": "tiny"}, section: {name: [URL]}}
    with pytest.raises(ConfigError, match=rf"^{key}: {URL} is in object storage, which only data\.sources supports"):
        ExternalInputs(tmp_path / "digests.json").look_up(LinkedConfig.model_validate(values))


def test_without_the_package_the_sentence_has_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(object_storage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError,
        match=r"^data\.sources: s3://\S+ is in object storage, which needs the package botocore: pip install -r"
        r" envs/extras/storage\.txt -c constraints\.txt\.$",
    ):
        found_by(tmp_path, URL)


def test_without_credentials_a_private_object_says_so_and_a_public_one_is_read(storage, tmp_path, monkeypatch):
    put(storage)
    put(storage, f"s3://{BUCKET}/in/public.jsonl", ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match=r"no credentials were found and it is not public: set AWS_ACCESS_KEY_ID"):
        found_by(tmp_path, URL)
    [entry] = found_by(tmp_path, f"s3://{BUCKET}/in/public.jsonl")
    assert ensure_staged(stage_sources([entry], None, tmp_path), None, tmp_path)[0].read_bytes() == CONTENT


def test_a_server_that_cannot_be_reached_is_one_sentence_without_secrets(storage, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:password@127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:9 cannot be reached \(\w+\): check the net") as caught:
        found_by(tmp_path, URL)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(ConfigError, match=r"the AWS settings of this environment cannot be used \(ValueError\)"):
        found_by(tmp_path, URL)
    monkeypatch.setenv("AWS_PROFILE", "of-nobody")
    with pytest.raises(ConfigError, match=r"the AWS settings of this environment cannot be used \(ProfileNotFound\)"):
        found_by(tmp_path, URL)
    assert not [secret for secret in ("password", "secret-of", "key-of") if secret in str(caught.value)]


# Fetching


def test_what_arrives_is_what_was_put_whatever_breaks_on_the_way(storage, line, tmp_path, capsys):
    content = large()
    for found in (put(storage, content=content), put_in_parts(storage, content, f"{URL}.gz")):
        line.cuts = 6
        arrived, copy = fetched(found, tmp_path)
        assert copy == content and arrived.is_checked and line.cuts == 0
    assert capsys.readouterr().err.count("the connection broke") == 12
    asked = [
        (request.split()[1], request.split(b"Range: bytes=")[1].split(b"\r")[0])
        for request in line.requests
        if b"Range" in request
    ]
    assert len(asked) == 2 * (3 + 6)  # three parts, and the rest of one after each break
    assert len(set(asked)) == len(asked)  # nothing is asked for a second time


def test_a_byte_that_changes_on_the_way_costs_a_second_attempt(storage, line, tmp_path):
    for found in (put(storage, content=large()), put_in_parts(storage, large(), f"{URL}.gz")):
        line.damage = 1
        arrived, copy = fetched(found, tmp_path)
        assert copy == large() and arrived.is_checked and not line.damage


def test_an_object_that_arrives_damaged_twice_is_refused_and_leaves_nothing(storage, line, tmp_path):
    found = put(storage, content=large())
    line.damage = 1000
    line.after = 100_000
    with pytest.raises(DataError, match=r"arrived twice with content that does not match its checksum"):
        fetched(found, tmp_path)
    assert files_in(tmp_path) == []


def test_a_tag_that_is_no_checksum_is_found_out_by_a_second_attempt(storage, tmp_path, monkeypatch):
    found = put(storage, content=large())
    monkeypatch.setattr(fetching, "check_of", lambda client, found: check_like(found))
    arrived, copy = fetched(found, tmp_path)
    assert copy == large() and not arrived.is_checked


def check_like(found):
    from snaketune.storage.object_checks import EtagCheck

    return EtagCheck("0" * 32, found.bytes)


@pytest.mark.parametrize("name", ["CRC32", "SHA1", "SHA256"])
def test_where_the_tag_tells_nothing_a_stored_checksum_is_compared(storage, tmp_path, name, monkeypatch):
    put(storage, ChecksumAlgorithm=name, ServerSideEncryption="aws:kms")
    found = describe_object(storage, URL)
    for content, agrees in ((CONTENT, True), (CONTENT[:-1], False)):
        check = check_of(storage, found)
        check.update(content[:1000])
        check.update(content[1000:])
        assert check.is_certain and check.agrees() is agrees


def test_an_object_that_changes_while_it_is_fetched_is_refused(storage, line, tmp_path):
    found = put(storage, content=large())
    line.cuts = 1
    line.on_cut = lambda: put(storage, content=large()[:-1] + b"!")
    with pytest.raises(DataError, match=r"x\.jsonl changed while it was copied: wait until it is completely written"):
        fetched(found, tmp_path)
    with pytest.raises(DataError, match=r"changed while it was copied"):
        fetched(found, tmp_path)


def test_a_server_without_conditions_or_ranges_gives_no_wrong_content(storage, tmp_path):
    found = put(storage, content=large())

    class Careless:
        """Forgets conditions of requests."""

        meta, head_object = storage.meta, storage.head_object

        def __init__(self, forgotten):
            self.forgotten = forgotten

        def get_object(self, **options):
            return storage.get_object(**{name: value for name, value in options.items() if name != self.forgotten})

    with pytest.raises(DataError, match=r"answers a request for bytes \d+-\d+/2621440 with everything"):
        fetched(found, tmp_path, Careless("Range"))
    careless = Careless("IfMatch")
    careless.head_object = lambda **options: storage.head_object(Bucket=BUCKET, Key="in/x.jsonl")
    put(storage, content=large()[::-1])
    with pytest.raises(DataError, match=r"x\.jsonl changed while the workflow ran"):
        fetched(found, tmp_path, careless)


def test_what_an_interruption_leaves_is_continued(storage, line, tmp_path):
    found = put(storage, content=large())
    (tmp_path / "x.partial").write_bytes(large()[: 2 << 20])
    line.requests.clear()
    arrived, copy = fetched(found, tmp_path)
    assert copy == large() and arrived.resumed == 2 << 20
    assert [request for request in line.requests if b"Range: bytes=2097152-2621439" in request]
    assert sum(b"Range" in request for request in line.requests) == 1


@pytest.mark.parametrize("left", [b"damaged" * 100, large() + b"too long"])
def test_what_an_interruption_leaves_damaged_is_fetched_anew(storage, tmp_path, left):
    found = put(storage, content=large())
    (tmp_path / "x.partial").write_bytes(left)
    assert fetched(found, tmp_path)[1] == large()


def test_a_server_that_is_gone_for_good_ends_in_a_sentence_and_keeps_what_arrived(storage, line, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr(fetching, "CONNECTIONS", 1)
    found = put(storage, content=large())
    client = connect()
    line.dies_after = line.sent + (1 << 20) + 100_000
    with pytest.raises(DataError, match=r"x\.jsonl: http://127\S+ cannot be reached \(\w+\): check the network"):
        fetch(client, found, tmp_path / "x.partial", lambda size: None)
    assert (tmp_path / "x.partial").read_bytes() == large()[: 1 << 20]
    line.dies_after = None
    assert fetched(found, tmp_path, client)[0].resumed == 1 << 20


def test_no_more_is_asked_for_than_a_slow_disk_takes(storage, line, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "FETCHED_PART_BYTES", 1 << 16)
    monkeypatch.setattr(fetching, "CONNECTIONS", 2)
    found = put(storage, content=large())
    ahead = []

    def slow_disk(size):
        if len(ahead) < 3:
            time.sleep(0.2)
            ahead.append(sum(b"Range" in request for request in line.requests))

    fetch(connect(), found, tmp_path / "x", slow_disk)
    assert ahead == [2, 3, 4]  # of 40 parts


# Staging


def staged(entry, work, scratch=None, disks=None):
    sources = stage_sources([entry], scratch, work, disks)
    return sources, ensure_staged(sources, scratch, work, disks)[0]


def test_an_object_is_staged_like_a_file_and_known_by_its_content(storage, tmp_path):
    entry = as_entry(put(storage))
    (tmp_path / "local.jsonl").write_bytes(CONTENT)
    [source], place = staged(entry, tmp_path / "work")
    assert (source.path, source.bytes) == (URL, len(CONTENT))
    assert source.digest == file_digest(tmp_path / "local.jsonl") == place.parent.name
    assert place.read_bytes() == CONTENT and place.name == "x.jsonl"
    assert json.loads((tmp_path / "work" / "staging.json").read_bytes())[URL]["how"] == "fetched"


def test_a_copy_that_is_there_is_used_without_the_storage(storage, line, tmp_path):
    entry = as_entry(put(storage))
    staged(entry, tmp_path / "work")
    line.requests.clear()
    staged(entry, tmp_path / "work")
    assert line.requests == []


def test_a_wiped_or_damaged_copy_is_fetched_again_also_after_an_equal_upload(storage, tmp_path):
    sources, place = staged(as_entry(put(storage)), tmp_path / "work", tmp_path / "scratch")
    assert place.is_relative_to(tmp_path / "scratch")
    put_in_parts(storage, CONTENT)  # the same content under another tag
    for spoil in (place.unlink, lambda: place.write_bytes(CONTENT[:-1] + b" ")):
        spoil()
        assert ensure_staged(sources, tmp_path / "scratch", tmp_path / "work") == [place]
        assert place.read_bytes() == CONTENT


def test_an_object_that_changed_since_the_workflow_started_is_refused(storage, tmp_path):
    entry = as_entry(put(storage))
    put(storage, content=CONTENT[:-2] + b" \n")
    with pytest.raises(DataError, match=r"changed while"):
        stage_sources([entry], None, tmp_path / "work")
    sources = stage_sources([as_entry(describe_object(storage, URL))], None, tmp_path / "other")
    put(storage, content=CONTENT[:-2] + b"\n\n")
    for work in ("third", "fourth"):
        with pytest.raises(DataError, match=r"changed while the workflow ran"):
            ensure_staged(sources, None, tmp_path / work)
    put(storage, content=CONTENT + b"\n")
    with pytest.raises(DataError, match=r"changed while the workflow ran"):
        ensure_staged(sources, None, tmp_path / "fifth")
    assert files_in(tmp_path) == ["objects.json", "staging.json", "x.jsonl"]


def test_one_process_fetches_and_the_others_wait(storage, line, tmp_path, capsys):
    entry = as_entry(put(storage, content=large()))
    line.requests.clear()
    sources = stage_sources([entry], None, tmp_path)
    (tmp_path / "sources" / sources[0].digest / "x.jsonl").unlink()
    line.requests.clear()
    threads = [threading.Thread(target=ensure_staged, args=(sources, None, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(b"Range" in request for request in line.requests) == 3


def test_scratch_auto_takes_the_fastest_disk_and_room_is_looked_for_before(storage, tmp_path):
    entry = as_entry(put(storage))
    folders = [tmp_path / "slow", tmp_path / "fast"]
    free = {}

    def disks():
        return Disks(
            folders,
            tmp_path / "disks.json",
            lambda path: Disk(
                ["slow", "fast"].index(next((f for f in ("slow", "fast") if f in str(path)), "slow")), "ext4"
            ),
            lambda folder: DiskSpeed(1e6, 1e6 * (1 + (folder.name == "fast"))),
            lambda path: free.get("bytes", 10**9),
        )

    assert staged(entry, tmp_path / "work", "auto", disks())[1].is_relative_to(tmp_path / "fast")
    free["bytes"] = 100
    with pytest.raises(DataError, match=r"paths\.scratch: .* GB free .*: free space there, or choose another disk\.$"):
        stage_sources([entry], None, tmp_path / "other", disks())


def test_an_empty_object_is_refused_like_an_empty_file(storage, tmp_path):
    entry = as_entry(put(storage, content=b""))
    with pytest.raises(DataError, match=r"x\.jsonl is empty \(0 bytes\): remove it from data\.sources or fill it"):
        stage_sources([entry], None, tmp_path)


def test_what_is_written_down_holds_no_credentials(storage, tmp_path, capsys):
    put(storage)
    staged(found_by(tmp_path, URL)[0], tmp_path / "work")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    output = "".join(capsys.readouterr())
    for secret in ("secret-of-the-tests", "key-of-the-tests"):
        assert secret.encode() not in written and secret not in output


def test_nothing_of_the_storage_is_imported_for_files(tmp_path):
    import subprocess
    import sys

    program = (
        "import sys; sys.path.insert(0, 'scripts')\n"
        "import snaketune.workflow.sources.inputs, snaketune.storage.staging, snaketune.publish.publishing\n"
        "print([name for name in ('botocore', 'boto3', 'urllib3') if name in sys.modules])"
    )
    root = remote_copies.__file__.split("/scripts/")[0]
    found = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_an_address_is_taken_as_it_is():
    assert Address.of("s3://b/a b/%20+ü.jsonl") == Address("b", "a b/%20+ü.jsonl")
    assert StoredObject("s3://b/k", 1, "t").asked_for() == {"Bucket": "b", "Key": "k", "IfMatch": '"t"'}
