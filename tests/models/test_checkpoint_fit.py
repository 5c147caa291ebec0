"""What the files of a model hold against what its configuration says: refused before anything is trained."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import configuration
from trip import random_model, take

from snaketune.core.errors import ConfigError, DataError, TrainingError
from snaketune.model.checkpoint_fit import refuse_quantised
from snaketune.train.loading.loading import open_model

DOWN = "model.layers.1.mlp.down_proj.weight"


def written(folder, kind="llama", change=None, **settings):
    """Write a model of a kind, change its tensors, and return the folder."""
    config = configuration(kind)
    for name, value in settings.items():
        setattr(config, name, value)
    random_model(config).save_pretrained(folder)
    if change:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def set_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


def check(folder):
    open_model(folder, torch.float32, "sdpa", False)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("llama", lambda t: t.pop(DOWN), f"1 tensors of this llama model are missing .* {DOWN}"),
        ("llama", lambda t: t.update(strange=torch.zeros(2)), "1 tensors of the files do not exist .* strange"),
        (
            "llama",
            lambda t: t.update({DOWN: torch.zeros(3, 5)}),
            r"differ in shape .*down_proj.* \[3, 5\] for \[32, 64\]",
        ),
        ("gemma3", lambda t: t.pop(next(n for n in t if "vision" in n)), "missing .*vision"),
    ],
)
def test_a_tensor_that_is_missing_unknown_or_of_another_shape(tmp_path, kind, change, words):
    with pytest.raises(DataError, match=words):
        check(written(tmp_path / "model", kind, change))


def test_an_expert_that_is_missing_is_no_random_one(tmp_path):
    def lose(tensors):
        del tensors[next(name for name in tensors if ".experts." in name)]

    with pytest.raises((DataError, TrainingError), match="mixtral"):
        check(written(tmp_path / "model", "mixtral", lose))


def test_it_ends_the_run_before_anything_is_trained(tmp_path):
    def model(folder):
        from trip import tokenizer

        tokenizer().save_pretrained(written(folder, change=lambda t: t.pop(DOWN)))

    found = take(tmp_path, model)
    assert (found.stage, "tensors of this llama model are missing" in found.error) == ("train", True)
    assert "step 1/2" not in found.printed


@pytest.mark.parametrize("kind", ["llama", "mixtral", "gemma3", "qwen3_5", "deepseek_v3", "mamba", "gpt2", "phi"])
def test_whole_checkpoints_pass(tmp_path, kind):
    check(written(tmp_path / "model", kind))


def test_files_in_several_parts_pass(tmp_path):
    random_model(configuration("llama")).save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    check(tmp_path / "model")


def test_what_old_versions_saved_besides_passes(tmp_path):
    def add(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        tensors["model.mtp.0.weight"] = torch.ones(4)

    check(written(tmp_path / "model", "llama", add))
    check(written(tmp_path / "gpt2", "gpt2", lambda t: t.update({"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8)})))


def test_tied_embeddings(tmp_path):
    def both(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    def different(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1

    check(written(tmp_path / "tied", tie_word_embeddings=True))
    check(written(tmp_path / "both", change=both, tie_word_embeddings=True))
    with pytest.raises(ConfigError, match=r"two different tensors .*: set tie_word_embeddings to false"):
        check(written(tmp_path / "different", change=different, tie_word_embeddings=True))
    with pytest.raises(DataError, match=r"missing .* lm_head\.weight"):
        check(set_config(written(tmp_path / "reverse", tie_word_embeddings=True), tie_word_embeddings=False))


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "mxfp4", "compressed-tensors"])
@pytest.mark.parametrize("inside", [True, False])
def test_quantised_weights_are_refused_when_they_are_prepared(tmp_path, method, inside):
    stated = {"quantization_config": {"quant_method": method, "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": stated} if inside else stated))
    with pytest.raises(ConfigError, match=rf"quantised \({method}\)"):
        refuse_quantised(tmp_path)


def test_weights_of_bitsandbytes_and_none_are_not(tmp_path):
    for stated in ({"quantization_config": {"quant_method": "bitsandbytes"}}, {"quantization_config": None}, {}):
        (tmp_path / "config.json").write_text(json.dumps(stated))
        refuse_quantised(tmp_path)
