"""Data sets of the hub: the real client against a small hub on this machine; no network is needed and none is used."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hub_answers import Answers

from snaketune.core.errors import ConfigError
from snaketune.storage.hub_files import HubAddress
from snaketune.workflow.sources.hub_sources import HubSources

SCRIPTS = Path(__file__).parents[2] / "scripts"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "org/data"
ROWS = b'{"prompt":"a","completion":"b"}\n'
# Looks up the sources of a configuration and stages them as the workflow does, in a process of its own: the client
# reads its endpoint and its cache when it is imported.
PROGRAM = """
import json, sys
from snaketune.core.errors import SnaketuneError
from snaketune.workflow.sources.inputs import ExternalInputs
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.storage.stage_facts import facts_of, sources_of
from snaketune.storage.staging import ensure_staged, stage_sources
try:
    file = {"data": {"sources": json.loads(sys.argv[1])}, "model": {"name_or_path": "tiny"}}
    config = resolve_runs(Layer("c", file), {}, "nowhere")[0].config
    found = ExternalInputs("work/digests.json")
    found.look_up(config)
    found.save()
    result = {"entries": found.sources(config), "notes": list(found.notes)}
    if len(sys.argv) > 2:
        staged = stage_sources(result["entries"], None, "work")
        places = ensure_staged(sources_of(facts_of(staged)), None, "work")
        result |= {"contents": [place.read_text() for place in places], "digests": [one.digest for one in staged]}
    print(json.dumps(result))
except SnaketuneError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


class Hub(ThreadingHTTPServer):
    """Serves one data set the way the hub does, and remembers what was asked for."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.refusals, self.requests = files, {}, []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"


class Handler(Answers):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(path)
        for pattern, (status, code) in self.server.refusals.items():
            if re.search(pattern, path):
                return self.answer(status, b"{}", {"X-Error-Code": code})
        if match := re.fullmatch(rf"/api/datasets/{REPO}(?:/revision/(.+))?", path):
            return self.describe(match[1] or "main")
        if match := re.fullmatch(rf"/datasets/{REPO}/resolve/{COMMIT}/(.+)", path):
            content = self.server.files[match[1]]
            return self.answer(200, content, {"ETag": f'"{self.blob(content)}"', "X-Repo-Commit": COMMIT})
        return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def describe(self, revision):
        if revision not in ("main", "v1", "refs/convert/parquet", COMMIT):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        siblings = [
            {"rfilename": name, "size": len(content), "blobId": self.blob(content)}
            for name, content in self.server.files.items()
        ]
        return self.answer(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode())

    def blob(self, content):
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def hub(tmp_path):
    server = Hub({"data/train.jsonl": ROWS, "data/test.jsonl": ROWS * 2, ".gitattributes": b""})
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def look_up(tmp_path, endpoint, *sources, stage=False, **environment):
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(SCRIPTS), **environment}
    command = [sys.executable, "-c", PROGRAM, json.dumps(sources), *(["stage"] if stage else [])]
    variables |= {"PATH": os.environ["PATH"]}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, cwd=tmp_path)


def found(ended):
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("hf://a/b", HubAddress("a/b")),
        ("hf://datasets/a/b", HubAddress("a/b")),
        ("hf://a/b@v1", HubAddress("a/b", "v1")),
        ("hf://a/b@refs/convert/parquet/x/*.parquet", HubAddress("a/b", "refs/convert/parquet", "x/*.parquet")),
        ("hf://a/b/data/*.jsonl", HubAddress("a/b", None, "data/*.jsonl")),
        ("hf://squad", HubAddress("squad")),
        ("hf://squad@v2/x.csv", HubAddress("squad", "v2", "x.csv")),
    ],
)
def test_an_address_names_repository_revision_and_files(url, address):
    assert HubAddress.of(url) == address
    if address.pattern:
        assert HubAddress.of(HubAddress(address.repo).file(COMMIT, "x/y.csv")) == HubAddress(
            address.repo, COMMIT, "x/y.csv"
        )


@pytest.mark.parametrize("url", ["hf://", "hf://a/b@", "hf://a/@v1"])
def test_an_address_without_a_data_set_is_refused(url):
    with pytest.raises(ConfigError, match="is not a data set of the hub"):
        HubAddress.of(url)


def test_a_revision_is_pinned_to_its_commit_and_its_files_are_fetched_and_checked(hub, tmp_path):
    result = found(look_up(tmp_path, hub.endpoint, f"hf://{REPO}@v1", stage=True))
    (entry,) = result["entries"]
    assert (entry["path"], entry["bytes"]) == (f"hf://{REPO}@{COMMIT}/data/train.jsonl", len(ROWS))
    assert result["contents"] == [ROWS.decode()]
    assert result["notes"] == [
        f"data.sources: hf://{REPO}@v1 is commit {COMMIT[:12]}: 1 file.",
        f"data.sources: hf://{REPO}@v1: the files of other splits are left out: data/test.jsonl; set `split:` to "
        "select others.",
    ]
    before = len(hub.requests)
    again = found(look_up(tmp_path, hub.endpoint, f"hf://{REPO}@v1", stage=True))
    assert again["digests"] == result["digests"]
    assert not [path for path in hub.requests[before:] if path.endswith(".jsonl")]  # the copy is found


def test_splits_configurations_and_patterns_choose_files(hub, tmp_path):
    hub.files |= {
        "README.md": b"---\nlicense: mit\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n"
        b"    path: m/*.csv\n- config_name: other\n  data_files: o/x.csv\n---\n# Title\n",
        "m/1.csv": b"text\na\n",
        "o/x.csv": b"text\nb\n",
    }

    def paths(source):
        return [
            entry["path"].split(f"{COMMIT}/")[1] for entry in found(look_up(tmp_path, hub.endpoint, source))["entries"]
        ]

    assert paths({"path": f"hf://{REPO}", "config": "main"}) == ["m/1.csv"]
    assert paths({"path": f"hf://{REPO}", "config": "other"}) == ["o/x.csv"]
    assert paths(f"hf://{REPO}/data/*.jsonl") == ["data/test.jsonl", "data/train.jsonl"]
    assert paths(f"hf://{REPO}@v1/data/test.jsonl") == ["data/test.jsonl"]
    ended = look_up(tmp_path, hub.endpoint, f"hf://{REPO}")
    assert "has several configurations: write `config:` with one of main, other" in ended.stderr
    ended = look_up(tmp_path, hub.endpoint, {"path": f"hf://{REPO}", "config": "main", "split": "test"})
    assert "has no split 'test': write `split:` with one of train" in ended.stderr


def test_a_bare_name_that_is_no_file_is_a_data_set_of_the_hub(hub, tmp_path):
    result = found(look_up(tmp_path, hub.endpoint, REPO))
    assert f"{REPO} is not a file here; it is read as the hub data set hf://{REPO}." in result["notes"][0]
    (tmp_path / "org").mkdir()
    assert f"{REPO} does not exist" in look_up(tmp_path, hub.endpoint, REPO).stderr


@pytest.mark.parametrize(
    ("source", "refusals", "words"),
    [
        ("hf://no/one", {}, "the hub has no data set no/one, or it is private"),
        (f"hf://{REPO}@v9", {}, "has no such branch, tag or commit"),
        (f"hf://{REPO}", {"api": (403, "GatedRepo")}, "is gated: accept its terms"),
        (f"hf://{REPO}", {"api": (500, "")}, "the hub answered with status 500: run the same command again later"),
        (f"hf://{REPO}/x/*.csv", {}, r"matches no file: its data files are data/test\.jsonl, data/train\.jsonl"),
        ({"path": f"hf://{REPO}", "split": "dev"}, {}, "has no dev split: write `split:` with one of those it has"),
        ({"path": f"hf://{REPO}", "config": "c"}, {}, "its card names no configurations"),
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence(hub, tmp_path, source, refusals, words):
    hub.refusals = refusals
    ended = look_up(tmp_path, hub.endpoint, source)
    assert ended.returncode
    assert re.search(words, ended.stderr), ended.stderr
    assert ended.stderr.startswith("ConfigError: data.sources: " if isinstance(source, dict) else "ConfigError: ")
    assert ended.stderr.count("\n") == 1


def test_a_data_set_with_a_loading_script_alone_is_refused_with_a_cure(hub, tmp_path):
    hub.files = {"data.py": b"", "README.md": b"# no head"}
    assert (
        "only a loading script, which is not run: try @refs/convert/parquet"
        in look_up(tmp_path, hub.endpoint, f"hf://{REPO}").stderr
    )
    assert not [path for path in hub.requests if path.endswith(".py")]


def test_a_file_that_arrives_as_another_one_is_refused(hub, tmp_path):
    ended = look_up(tmp_path, hub.endpoint, f"hf://{REPO}")
    entry = found(ended)["entries"][0]
    hub.files["data/train.jsonl"] = ROWS.replace(b"a", b"x")
    ended = look_up(tmp_path, hub.endpoint, f"hf://{REPO}@{COMMIT}", stage=True)
    assert found(ended)["entries"][0]["digest"] != entry["digest"]  # asked anew, as it is another address
    from snaketune.storage.hub_files import _digests

    (tmp_path / "file").write_bytes(ROWS.replace(b"a", b"x"))
    _, theirs = _digests(tmp_path / "file", entry["digest"].removeprefix("etag "), lambda size: None)
    assert theirs != entry["digest"].removeprefix("etag ")


def test_without_a_network_a_sentence_comes_or_what_was_found_before(tmp_path, monkeypatch):
    memory, nowhere = tmp_path / "hub.json", {"HF_ENDPOINT": "https://hub.invalid"}
    for environment, words in (
        (nowhere, "the hub https://hub.invalid cannot be reached"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ):
        with pytest.raises(ConfigError, match=f"{words}.*run `hf download a/b --repo-type dataset --local-dir FOLDER`"):
            HubSources(memory, environment=environment).find("hf://a/b", "data.sources")
    known = {"commit": COMMIT, "entries": [{"path": "p"}], "notes": []}
    memory.write_text(json.dumps({'["hf://a/b",null,null]': known}))
    remembered = HubSources(memory, environment=nowhere).find("hf://a/b", "data.sources")
    assert remembered["entries"] == known["entries"]
    assert "using commit 0123456789ab from the cache" in remembered["notes"][0]
