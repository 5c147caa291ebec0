"""A model folder from a stranger: links that lead out of it, files that are not a model's, settings of wrong types."""

import json
import os
import random

import numpy as np
import pytest
from safetensors.numpy import save_file

from snaketune.core.errors import ConfigError, SnaketuneError
from snaketune.model.folder import link_model
from snaketune.model.tokenizer_only import prepare_tokenizer

CONFIG = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "architectures": ["LlamaForCausalLM"],
}
WRONG = [[], {}, "x", 1.5, True, [1], {"a": 1}]


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"w": np.ones((4, 3), dtype=np.float32)}, folder / "model.safetensors")
    return folder


def link(folder, tmp_path):
    target = tmp_path / f"target-{len(list(tmp_path.iterdir()))}"
    target.mkdir()
    link_model(folder, target, trust_remote_code=False)
    return sorted(path.name for path in target.iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "vocab.txt", "LICENSE"])
def test_a_link_that_leads_out_of_the_folder_is_refused(model, tmp_path, name):
    secret = tmp_path / "secret"
    secret.write_bytes((model / name).read_bytes() if (model / name).exists() else b"secret")
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(secret)
    with pytest.raises(ConfigError, match=rf"{name} is a link out of the model folder, to .*secret"):
        link(model, tmp_path)


def test_links_inside_the_folder_and_of_the_hubs_cache_are_followed(model, tmp_path):
    (model / "model.safetensors").rename(model / "weights")
    (model / "model.safetensors").symlink_to("weights")
    assert "model.safetensors" in link(model, tmp_path)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, name in enumerate(["config.json", "tokenizer.json", "model.safetensors"]):
        (blobs / str(number)).write_bytes((model / name).read_bytes())
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    assert link(snapshot, tmp_path) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_files_that_are_no_models_stay_behind(model, tmp_path):
    for name in ("notes.txt", "secrets.json", ".env", "id_rsa", "train.jsonl", "run.py"):
        (model / name).write_text("private")
    os.mkfifo(model / "vocab.json")
    assert link(model, tmp_path) == ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("content", [[], {"weight_map": []}, {"weight_map": {"w": 3}}, {"weight_map": {"w": []}}, 3])
def test_an_index_of_a_wrong_type_is_a_sentence(model, tmp_path, content):
    (model / "model.safetensors").rename(model / "a.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(SnaketuneError, match=r"index.json(:| is not a JSON object)"):
        link(model, tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", "a/b"])
def test_an_index_that_names_files_elsewhere_is_a_sentence(model, tmp_path, name):
    (model / "model.safetensors").rename(model / "a.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(SnaketuneError):
        link(model, tmp_path)


@pytest.mark.parametrize("key", sorted(CONFIG))
def test_settings_of_wrong_types_are_sentences(model, tmp_path, key):
    settings = {"name_or_path": str(model), "revision": None, "trust_remote_code": False, "tiny": {}}
    for number, wrong in enumerate(WRONG):
        (model / "config.json").write_text(json.dumps({**CONFIG, key: wrong}))
        if (key, wrong) in (("architectures", []), ("model_type", "x")):
            continue  # of the right type
        with pytest.raises(SnaketuneError, match=r"config.json"):
            prepare_tokenizer(settings, tmp_path / f"out-{number}")


def test_fuzzed_configurations_end_in_sentences_or_models(model, tmp_path):
    settings = {"name_or_path": str(model), "revision": None, "trust_remote_code": False, "tiny": {}}
    chance = random.Random(3)
    content = json.dumps(CONFIG).encode()
    for number in range(60):
        place = chance.randrange(len(content))
        (model / "config.json").write_bytes(content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :])
        try:
            prepare_tokenizer(settings, tmp_path / f"out-{number}")
        except SnaketuneError:
            continue
