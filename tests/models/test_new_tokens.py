"""Tokens that were added to the vocabulary: found, told of before training, trained on request, merged, carded."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import configuration
from transformers import AutoModelForCausalLM, AutoTokenizer
from trip import take, write_model

from snaketune.core.errors import ConfigError
from snaketune.model.adapters.new_tokens import token_numbers, untrained_tokens

ADDED = ["<tool>", "<blue>"]


def with_added_tokens(folder, tied=False, mean=True):
    """Write a model and give its vocabulary two tokens more, as people do it."""
    config = configuration("llama")
    config.vocab_size, config.tie_word_embeddings = 300, tied
    write_model(folder, config)
    model, words = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    words.add_tokens(ADDED, special_tokens=True)
    torch.manual_seed(3)
    model.resize_token_embeddings(len(words), mean_resizing=mean)
    shutil.rmtree(folder)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [False, True])
def test_rows_made_by_resizing_are_found_and_trained_ones_are_not(tmp_path, tied):
    folder = with_added_tokens(tmp_path / "model", tied)
    assert list(untrained_tokens(folder)) == ADDED
    assert token_numbers("new", folder) == list(untrained_tokens(folder).values())
    assert token_numbers(["<blue>", 5], folder) == [5, untrained_tokens(folder)["<blue>"]]
    with pytest.raises(ConfigError, match="no token '<red>'"):
        token_numbers(["<red>"], folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][-2:] = torch.randn(2, 32) * 0.1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert untrained_tokens(folder) == {}
    with pytest.raises(ConfigError, match="this model has no new tokens"):
        token_numbers("new", folder)


def test_rows_of_random_numbers_are_found_where_trained_rows_lean_in_one_direction(tmp_path):
    folder = with_added_tokens(tmp_path / "model", mean=False)
    weights = load_file(folder / "model.safetensors")
    width = 4096  # as wide as real models: in 32 dimensions random rows lean by accident
    rows = torch.randn(302, width) * 0.02
    rows[:300] += 0.02
    weights["model.embed_tokens.weight"] = rows
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert list(untrained_tokens(folder)) == ADDED


def test_without_weights_nothing_is_found(tmp_path):
    folder = with_added_tokens(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert untrained_tokens(folder) == {}


RECORDS = [("lamp <blue>", "on at <blue> <tool>"), ("kitchen two", "off"), ("blue", "nine three one")]


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_are_trained_merged_and_nothing_else_of_the_embedding_is(tmp_path, tied):
    def model(folder):
        return with_added_tokens(folder, tied)

    found = take(tmp_path / "run", model, records=RECORDS, adapter={"trainable_token_indices": "new"})
    assert (found.error, "LoRA does not train them" in found.printed) == (None, False)
    names = ["model.embed_tokens.weight"] + ([] if tied else ["lm_head.weight"])
    for name in names:
        base, merged = (load_file(tmp_path / "run" / part / "model.safetensors")[name] for part in ("model", "merged"))
        moved = (base - merged).norm(dim=1)
        assert bool((moved[300:] > 1e-4).all()), name
        assert float(moved[:300].max()) == 0, name
    trained = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert sum("trainable_tokens" in name for name in trained) == len(names)


def test_tokens_that_keep_their_first_values_are_told_of_before_training(tmp_path):
    silent = take(tmp_path / "silent", with_added_tokens, records=RECORDS)
    assert silent.printed.index("2 tokens in the data were added") < silent.printed.index("step 1/2")
    assert "(<tool>, <blue>), and LoRA does not train them: set adapter.trainable_token_indices" in silent.printed
    assert any("2 tokens in the data" in note for note in silent.facts["plan"]["notes"])
    assert "LoRA does not train" not in take(tmp_path / "others", with_added_tokens).printed
