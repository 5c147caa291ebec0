"""Publishing to the hub, against a local server that takes commits: one commit, nothing twice, private."""

import pytest
from hub_uploads import TOKEN, Hub, serving
from huggingface_hub import HfApi, _commit_api

from snaketune.core.errors import ConfigError, DataError
from snaketune.core.manifest import write_manifest
from snaketune.publish.hub_upload import check_destination, check_hub, places_on_hub, publish_to_hub, repository_of

URL = "hf://me/my-model"


@pytest.fixture
def hub(monkeypatch):
    # hf_xet sends chunks to a service of its own; the hub takes both.
    monkeypatch.setattr(_commit_api, "is_xet_available", lambda: False)
    made = Hub()
    with serving(made) as made.address:
        yield made


@pytest.fixture
def api(hub):
    return HfApi(hub.address, token=TOKEN)


@pytest.fixture
def folder(tmp_path):
    """A finished run."""
    made = tmp_path / "results" / "one" / "lora-1"
    for name, content in {
        "merged/model.safetensors": b"merged weights",
        "merged/config.json": b"{}",
        "merged/README.md": b"---\nlicense: mit\n---\n# merged",
        "adapter/adapter_model.safetensors": b"adapter weights",
        "adapter/README.md": b"# adapter",
        "report.html": b"<p>fine</p>",
        "metrics.jsonl": b"{}",
    }.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(content)
    seal(made)
    return made


def seal(folder):
    write_manifest(folder / "merged.manifest.json", "merge_adapter", [folder / "merged" / "model.safetensors"], {})


def test_model_card_adapter_and_report_are_one_commit_in_a_private_repository(hub, api, folder):
    said = []
    sent = publish_to_hub(api, folder, URL, True, said.append)
    assert hub.repositories["me/my-model"]["private"] is True
    assert hub.files("me/my-model") == {
        "README.md": (folder / "merged/README.md").read_bytes(),
        "adapter/README.md": b"# adapter",
        "adapter/adapter_model.safetensors": b"adapter weights",
        "config.json": b"{}",
        "model.safetensors": b"merged weights",
        "report.html": b"<p>fine</p>",
    }
    assert (hub.commits, sent.files, sent.removed) == (1, 6, 0)
    assert "6 files" in said[0] and sent.page.endswith("me/my-model")


def test_a_broken_upload_goes_on_where_it_was_and_leaves_no_half_commit(hub, api, folder):
    hub.fails["/commit/"] = 403
    with pytest.raises(
        DataError, match=r"status 403: log in with `hf auth login`, with a token that may write to me/my"
    ):
        publish_to_hub(api, folder, URL, True, print)
    assert hub.files("me/my-model") == {} and sorted(hub.sent) == [14, 15]
    publish_to_hub(api, folder, URL, True, print)
    assert len(hub.files("me/my-model")) == 6
    assert sorted(hub.sent) == [14, 15]  # the weights had arrived


def test_weights_of_an_earlier_commit_go_and_what_others_put_there_stays(hub, api, folder):
    publish_to_hub(api, folder, URL, True, print)
    hub.files("me/my-model").update({"model-00002-of-00002.safetensors": b"old", "notes.md": b"mine"})
    assert publish_to_hub(api, folder, URL, True, print).removed == 1
    assert set(hub.files("me/my-model")) & {"notes.md", "model-00002-of-00002.safetensors"} == {"notes.md"}


def test_a_damaged_file_is_not_published(hub, api, folder):
    (folder / "merged/model.safetensors").write_bytes(b"merged w3ights")
    with pytest.raises(DataError, match=r"model\.safetensors"):
        publish_to_hub(api, folder, URL, True, print)
    assert not hub.repositories


def test_without_a_merged_model_the_adapter_is_at_the_root():
    names = dict.fromkeys(["adapter/a.safetensors", "adapter/README.md", "model-q8_0.gguf", "Modelfile", "run.json"])
    assert places_on_hub(names) == {
        "Modelfile": "Modelfile",
        "README.md": "adapter/README.md",
        "a.safetensors": "adapter/a.safetensors",
        "model-q8_0.gguf": "model-q8_0.gguf",
    }


@pytest.mark.parametrize(
    "url", ["hf://me", "hf://me/a/b", "hf://", "hf://datasets/me/x", "hf://me/a..b", "hf://me/x.git"]
)
def test_an_address_is_an_owner_and_a_name(url):
    with pytest.raises(ConfigError, match="write hf://owner/name"):
        repository_of(url)


def test_nobody_is_asked_for_a_token_before_it_is_clear_that_one_is_stored(hub, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.utils._auth.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: None)
    with pytest.raises(ConfigError, match="no token of the hub is stored on this machine: log in with `hf auth login`"):
        check_destination(URL)
    with pytest.raises(ConfigError, match="status 401: log in"):
        check_hub(URL, HfApi(hub.address, token="hf_wrong"))
    check_hub(URL, HfApi(hub.address, token=TOKEN))
