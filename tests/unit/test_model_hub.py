"""The real client of the hub against a small hub on this machine: no network is needed and none is used."""

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import closing
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import preloaded
import pytest
from hub_answers import Answers
from model_case import prepare_model
from test_model_folder import CONFIG, settings, write_model

from snaketune.core.errors import ConfigError, DataError
from snaketune.core.manifest import read_manifest
from snaketune.model import origin
from snaketune.model.hub import Snapshot, ensure_reachable
from snaketune.model.prepare import prepare_model as prepare_beside_tokenizer
from snaketune.model.tokenizer_only import TokenizerFolder, prepare_tokenizer

SCRIPTS = Path(__file__).parents[2] / "scripts"
BOTH = Path(__file__).with_name("both_jobs.py")
SAME = ("revision", "commit", "vocab_size", "context_length", "tokenizer_digest", "chat_template_digest", "nature")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "org/small"


class Hub(ThreadingHTTPServer):
    """Serves one model folder the way the hub does, and remembers what was asked for."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.refusals, self.requests = folder, {}, []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def files(self):
        return sorted(file for file in self.folder.rglob("*") if file.is_file())


class Handler(Answers):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(path)
        for pattern, (status, code) in self.server.refusals.items():
            if re.search(pattern, path):
                return self.answer(status, b"{}", {"X-Error-Code": code})
        if match := re.fullmatch(rf"/api/models/{REPO}/revision/(.+)", path):
            return self.describe(match[1])
        if path.startswith(f"/api/models/{REPO}/tree/{COMMIT}"):
            return self.answer(200, json.dumps([self.entry(file) for file in self.server.files()]).encode())
        if match := re.fullmatch(rf"/{REPO}/resolve/{COMMIT}/(.+)", path):
            file = self.server.folder / match[1]
            return self.answer(
                200, file.read_bytes(), {"ETag": f'"{self.entry(file)["oid"]}"', "X-Repo-Commit": COMMIT}
            )
        return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def describe(self, revision):
        if revision not in ("main", "v1", COMMIT):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": self.entry(file)["path"]} for file in self.server.files()]
        return self.answer(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode())

    def entry(self, file):
        name = file.relative_to(self.server.folder).as_posix()
        return {"type": "file", "path": name, "size": file.stat().st_size, "oid": f"{abs(hash(file)):040x}"}


@pytest.fixture(scope="module")
def running():
    server = Hub(None)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(running, tmp_path):
    running.folder, running.refusals, running.requests = write_model(tmp_path / "served"), {}, []
    return running


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def prepare(running, cache, tmp_path):
    """A function that runs both scripts as the workflow does, with an empty cache, and returns how that ended.

    The client of the hub reads its variables when it is imported, so that only processes with the same ones are forked.
    """

    def run(endpoint, cfg, **environment):
        places = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache)}
        python = preloaded.python(**places) if endpoint == running.endpoint else sys.executable
        return run_both(python, tmp_path, cfg, {"PATH": "", **places, **environment})

    yield run
    shutil.rmtree(cache, ignore_errors=True)


def run_both(python, tmp_path, cfg, variables):
    made = [tmp_path / kind / "manifest.json" for kind in ("tokenizers", "models")]
    jobs = []
    for stage, manifest in zip(("prepare_tokenizer", "prepare_model"), made, strict=True):
        spec = json.dumps({"stage": stage, "code": "", "cfg": {"model": cfg}})
        outputs = ["--output", str(manifest.parent / "model"), "--manifest", str(manifest)]
        jobs.append([str(SCRIPTS / f"{stage}.py"), "--spec", spec, *outputs])
    jobs[1] += ["--tokenizer", str(made[0])]
    command = [python, str(BOTH), json.dumps(jobs)]
    variables |= {"PYTHONPATH": str(SCRIPTS)}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, cwd=tmp_path)


def manifest(tmp_path, kind="models"):
    return read_manifest(tmp_path / kind / "manifest.json")


def assert_one_sentence(ended, *words):
    sentence = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 2
    assert sentence.startswith("ConfigError: ")
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in sentence


def test_a_branch_is_pinned_to_its_commit_and_then_found_offline(hub, tmp_path, prepare):
    for name in ("README.md", "pytorch_model.bin", "consolidated.safetensors", "onnx/model.safetensors", "code.py"):
        (hub.folder / name).parent.mkdir(exist_ok=True)
        (hub.folder / name).write_bytes(b"not needed")

    ended = prepare(hub.endpoint, settings(REPO, revision="v1"))
    assert ended.returncode == 0, ended.stderr
    online = manifest(tmp_path)
    assert {key: online[key] for key in ("kind", "name", "repo", "revision", "commit")} == {
        "kind": "hub",
        "name": REPO,
        "repo": REPO,
        "revision": "v1",
        "commit": COMMIT,
    }
    fetched = {path.split(COMMIT + "/")[1] for path in hub.requests if "/resolve/" in path}
    needed = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(fetched) == ["README.md", *needed]  # its card is read, not kept
    assert sorted(online["files"]) == [f"model/{name}" for name in needed]
    light = manifest(tmp_path, "tokenizers")
    assert sorted(light["files"]) == [f"model/{name}" for name in needed if name != "model.safetensors"]
    assert {key: light[key] for key in SAME} == {key: online[key] for key in SAME}

    asked = len(hub.requests)
    ended = prepare(hub.endpoint, settings(REPO, revision="v1"), HF_HUB_OFFLINE="1")
    assert ended.returncode == 0, ended.stderr
    assert manifest(tmp_path) == online
    assert len(hub.requests) == asked


def test_an_empty_cache_offline_is_one_sentence(prepare):
    ended = prepare("http://127.0.0.1:9", settings(REPO), HF_HUB_OFFLINE="1")
    assert_one_sentence(ended, REPO, "HF_HUB_OFFLINE", "main")


@pytest.mark.parametrize(
    ("refusals", "changes", "words"),
    [
        ({"/api/models": (404, "RepoNotFound")}, {}, [REPO, "no such model", "hf auth login"]),
        ({"/api/models": (401, "")}, {}, [REPO, "401", "hf auth login"]),
        ({}, {"revision": "v9"}, ["model.revision v9", REPO]),
        ({"/api/models": (403, "GatedRepo")}, {}, [REPO, "gated", "licence"]),
        ({"/resolve/": (403, "GatedRepo")}, {}, [REPO, "gated", "licence"]),
        ({"/api/models": (500, "")}, {}, [REPO, "500"]),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(hub, tmp_path, refusals, changes, words, prepare):
    hub.refusals = refusals
    assert_one_sentence(prepare(hub.endpoint, settings(REPO, **changes)), *words)
    assert not list(tmp_path.glob("*/model"))


def test_a_model_that_needs_its_own_code_is_refused_before_its_weights_are_fetched(hub, prepare):
    (hub.folder / "config.json").write_text(json.dumps(CONFIG | {"auto_map": {"AutoModel": "code.Model"}}))
    assert_one_sentence(prepare(hub.endpoint, settings(REPO)), "trust_remote_code")
    assert not any(path.endswith(".safetensors") for path in hub.requests)


def test_the_weights_are_those_of_the_commit_that_the_tokenizer_came_from(hub, tmp_path, monkeypatch):
    """A branch that moves on between the two jobs must not mix two models."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    asked = []

    def fetch(repo, revision, trust_remote_code, weights=True):
        asked.append((revision, weights))
        return Snapshot(repo, revision, COMMIT if weights else "f" * 40, hub.folder)

    monkeypatch.setattr(origin, "fetch_snapshot", fetch)
    facts = prepare_model(settings(REPO, revision="main"), tmp_path / "model")
    assert asked == [("main", False), ("f" * 40, True)]
    assert facts["revision"] == "main"


def test_a_model_that_changes_between_the_two_jobs_is_one_sentence(tmp_path):
    source = write_model(tmp_path / "source")
    folder = tmp_path / "tokenizer"
    tokenizer = TokenizerFolder(folder, prepare_tokenizer(settings(source), folder))
    (source / "chat_template.jinja").unlink()
    (source / "chat_template.jinja").write_text("{{ other }}")
    with pytest.raises(DataError, match="changed while it was prepared \\(chat_template_digest is "):
        prepare_beside_tokenizer(settings(source), tmp_path / "out", tokenizer)
    assert not (tmp_path / "out").exists()


def test_pickled_weights_are_refused_before_anything_is_fetched(hub, prepare):
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    assert_one_sentence(prepare(hub.endpoint, settings(REPO)), REPO, "pickled", "safetensors")
    assert not any("/resolve/" in path for path in hub.requests)


@pytest.mark.parametrize("name", ["./models/small", "/models/small", "models/small/too", "~/small", "a b"])
def test_what_can_only_be_a_path_is_never_looked_up(hub, prepare, name):
    assert_one_sentence(prepare(hub.endpoint, settings(name)), "does not exist")
    assert hub.requests == []


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_name_that_no_repository_can_have_is_one_sentence(hub, prepare, offline):
    ended = prepare(hub.endpoint, settings("org/a--b"), HF_HUB_OFFLINE=offline)
    assert_one_sentence(ended, "org/a--b", "correct the name")


def test_a_folder_wins_over_a_repository_of_the_same_name(hub, tmp_path, prepare):
    write_model(tmp_path / REPO)
    assert prepare(hub.endpoint, settings(REPO)).returncode == 0
    assert manifest(tmp_path)["kind"] == "folder"
    assert hub.requests == []


def unused_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_without_a_network_the_sentence_comes(prepare):
    with pytest.raises(ConfigError, match="give its path, or set HF_HUB_OFFLINE=1"):
        ensure_reachable("https://hub.invalid", REPO)
    ended = prepare(f"http://127.0.0.1:{unused_port()}", settings(REPO))
    assert_one_sentence(ended, REPO, "cannot be reached", "HF_HUB_OFFLINE=1")


def test_a_network_that_swallows_everything_is_given_up(monkeypatch):
    given_up = threading.Event()

    def wait(*arguments, **options):
        assert given_up.wait(60), "the caller has waited for it"
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", wait)
    with pytest.raises(ConfigError, match="no answer"):
        ensure_reachable("https://hub.invalid", REPO)
    given_up.set()


def test_a_proxy_is_asked_instead_of_the_hub(hub, monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", hub.endpoint)
    ensure_reachable("https://hub.invalid", REPO)
    monkeypatch.setenv("no_proxy", "hub.invalid")
    with pytest.raises(ConfigError):
        ensure_reachable("https://hub.invalid", REPO)
