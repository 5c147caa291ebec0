import json
import os
import stat

import numpy as np
import pytest
from model_case import prepare_model
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from snaketune.core.errors import ConfigError, DataError, SnaketuneError
from snaketune.model.folder import link_model
from snaketune.model.tokenizer_files import chat_template_digest, tokenizer_digest

CONFIG = {"model_type": "llama", "vocab_size": 256, "max_position_embeddings": 128}
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "!",
    "name_or_path": "somewhere",
    "model_max_length": int(1e30),  # what transformers writes for "no limit", beyond 64 bits
}


def byte_tokenizer():
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_model(folder, config=CONFIG, tensors=None):
    """Write a small folder in the Hugging Face format, as a user might have it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors or {"w": np.ones((4, 3), dtype=np.float32)}, folder / "model.safetensors")
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def settings(name, **changes):
    return {"name_or_path": str(name), "revision": None, "trust_remote_code": False, "tiny": {}, **changes}


def write_slow_tokenizer(folder):
    """Replace the fast tokenizer by the files of a slow one."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")


@pytest.fixture
def source(tmp_path):
    return write_model(tmp_path / "source")


def test_the_facts_of_a_folder(source, tmp_path):
    facts = prepare_model(settings(source), tmp_path / "out")
    assert facts["kind"] == "folder"
    assert facts["name"] == "source"
    assert (facts["parameters"], facts["dtype"]) == (12, "float32")
    assert (facts["vocab_size"], facts["context_length"]) == (256, 128)
    assert all(len(facts[f"{part}_digest"]) == 32 for part in ("weights", "tokenizer", "chat_template"))


def test_a_configuration_that_computes_otherwise_is_another_model(tmp_path):
    def facts(name, **changes):
        return prepare_model(settings(write_model(tmp_path / name, CONFIG | changes)), tmp_path / f"out-{name}")

    first, same, other = facts("a"), facts("b", transformers_version="9"), facts("c", rope_theta=5e5)
    assert first["configuration_digest"] == same["configuration_digest"] != other["configuration_digest"]
    assert first["weights_digest"] == other["weights_digest"]


def test_files_are_linked_and_not_copied(source, tmp_path):
    prepare_model(settings(source), tmp_path / "out")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).samefile(source / name)


def test_where_a_hard_link_is_impossible_the_link_is_symbolic(source, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    prepare_model(settings(source), tmp_path / "out")
    linked = tmp_path / "out" / "model.safetensors"
    assert linked.is_symlink()
    assert linked.readlink() == source / "model.safetensors"


def test_a_link_to_a_blob_becomes_a_link_to_its_content(source, tmp_path):
    snapshot, blob = tmp_path / "snapshots" / "0123", tmp_path / "blobs" / "4567"
    snapshot.parent.mkdir()
    blob.parent.mkdir()
    source.rename(snapshot)
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to("../../blobs/4567")
    prepare_model(settings(snapshot), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").samefile(blob)
    assert not (tmp_path / "out" / "model.safetensors").is_symlink()


def test_the_user_s_files_keep_their_permissions(source, tmp_path):
    (source / "model.safetensors").chmod(0o400)
    prepare_model(settings(source), tmp_path / "out")
    assert stat.S_IMODE((source / "model.safetensors").stat().st_mode) == 0o400


def test_only_what_loading_needs_is_linked(source, tmp_path):
    for name in ("README.md", "optimizer.pt", "model.onnx", "adapter_config.json", "extra.safetensors", "code.py"):
        (source / name).write_text("{}")
    for name in ("onnx/config.json", ".cache/x.json", "additional_chat_templates/tools.jinja"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("{}")
    link_model(source, tmp_path / "out", trust_remote_code=False)
    linked = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert linked == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
    }


def test_a_licence_comes_along_and_what_the_card_states_is_a_fact(source, tmp_path):
    (source / "README.md").write_text("---\nlicense: mit\n---\n# A model")
    (source / "LICENSE").write_text("free")
    (source / "LICENSE.txt").write_text("free")
    facts = prepare_model(settings(source), tmp_path / "out")
    assert facts["card"] == {"license": "mit"}
    assert {"LICENSE", "LICENSE.txt"} <= {file.name for file in (tmp_path / "out").iterdir()}
    assert not (tmp_path / "out" / "README.md").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_runs_only_if_it_is_trusted(source, tmp_path, file):
    content = json.loads((source / file).read_text()) | {"auto_map": {"AutoModel": "code.Model"}}
    (source / file).write_text(json.dumps(content))
    (source / "code.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(ConfigError, match="trust_remote_code"):
        prepare_model(settings(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepare_model(settings(source, trust_remote_code=True), tmp_path / "out")
    assert (tmp_path / "out" / "code.py").is_file()


def spoil_nothing_there(source):
    for file in source.iterdir():
        file.unlink()
    source.rmdir()


def spoil_config(source):
    (source / "config.json").unlink()


def spoil_config_syntax(source):
    (source / "config.json").write_text("{")


def spoil_tokenizer_syntax(source):
    (source / "tokenizer_config.json").write_text("[]")


def spoil_weights(source):
    (source / "model.safetensors").rename(source / "pytorch_model.bin")


def spoil_numbers(source):
    save_file({"w": np.array([np.nan], dtype=np.float32)}, source / "model.safetensors")


def spoil_length(source):
    os.truncate(source / "model.safetensors", 40)


def spoil_tokenizer(source):
    (source / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "word"),
    [
        (spoil_nothing_there, ConfigError, "does not exist"),
        (spoil_config, ConfigError, "no config.json"),
        (spoil_config_syntax, ConfigError, "not valid JSON"),
        (spoil_tokenizer_syntax, ConfigError, "not a JSON object"),
        (spoil_weights, ConfigError, "pickled"),
        (spoil_numbers, DataError, "not finite"),
        (spoil_length, DataError, "truncated"),
        (spoil_tokenizer, ConfigError, "tokenizer.json"),
    ],
)
def test_an_unusable_folder_is_one_sentence_and_leaves_nothing(source, tmp_path, spoil, error, word):
    spoil(source)
    with pytest.raises(SnaketuneError, match=word) as caught:
        prepare_model(settings(source), tmp_path / "out")
    assert caught.type is error
    assert "\n" not in str(caught.value)
    assert "source" in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"source", "out-tokenizer"}


def test_a_slow_tokenizer_is_made_fast_and_its_files_stay_as_they_are(source, tmp_path):
    write_slow_tokenizer(source)
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    prepare_model(settings(source), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.is_fast
    assert tokenizer.decode(tokenizer("héllo")["input_ids"]) == "héllo"
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert {file.name: file.read_bytes() for file in source.iterdir()} == before


@pytest.mark.parametrize(("text", "words"), [("[1,", "is not valid JSON"), ("[1]", "is not a JSON object")])
def test_damaged_generation_settings_are_refused_before_anything_is_trained(source, tmp_path, text, words):
    (source / "generation_config.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"generation_config\.json {words}.*: copy the model again"):
        prepare_model(settings(source), tmp_path / "out")


def test_a_tokenizer_that_cannot_be_converted_says_why(source, tmp_path):
    write_slow_tokenizer(source)
    (source / "vocab.json").write_text("not JSON")
    with pytest.raises(ConfigError, match=r"vocab.json cannot be converted"):
        prepare_model(settings(source), tmp_path / "out")


def test_the_tokenizer_digest_ignores_where_it_was_saved_and_by_which_version(source):
    before = tokenizer_digest(source)
    changed = TOKENIZER_CONFIG | {"name_or_path": "elsewhere", "transformers_version": "9", "chat_template": "x"}
    (source / "tokenizer_config.json").write_text(json.dumps(dict(reversed(changed.items())), indent=4))
    assert tokenizer_digest(source) == before


def test_the_tokenizer_digest_notices_what_changes_tokens(source):
    digests = {tokenizer_digest(source)}
    (source / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG | {"eos_token": "?"}))
    digests.add(tokenizer_digest(source))
    (source / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    digests.add(tokenizer_digest(source))
    tokenizer = byte_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="! $A", special_tokens=[("!", 0)])
    tokenizer.save(str(source / "tokenizer.json"))
    digests.add(tokenizer_digest(source))
    assert len(digests) == 4


def test_the_template_digest_is_of_the_template_that_is_used(source):
    in_file = chat_template_digest(source)
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": "other"}))
    assert chat_template_digest(source) == in_file
    (source / "chat_template.jinja").unlink()
    in_config = chat_template_digest(source)
    assert in_config not in (None, in_file)
    (source / "chat_template.jinja").write_text("other")
    assert chat_template_digest(source) == in_config
    (source / "chat_template.jinja").unlink()
    (source / "tokenizer_config.json").write_text("{}")
    assert chat_template_digest(source) is None


def test_sizes_of_a_model_with_a_nested_configuration(tmp_path):
    config = {"model_type": "gemma3", "text_config": {"vocab_size": 7, "max_position_embeddings": 9}}
    facts = prepare_model(settings(write_model(tmp_path / "source", config)), tmp_path / "out")
    assert (facts["vocab_size"], facts["context_length"]) == (7, 9)


def test_unknown_sizes_are_none(tmp_path):
    facts = prepare_model(settings(write_model(tmp_path / "source", {"model_type": "gpt2"})), tmp_path / "out")
    assert facts["vocab_size"] is facts["context_length"] is None
