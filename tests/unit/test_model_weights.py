import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from snaketune.core.errors import ConfigError, DataError
from snaketune.model.weights import count_parameters, digest_weights, find_weight_files

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(5, dtype=np.float32)}


def shard(folder, tensors, name="model.safetensors", **metadata):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / name, metadata=metadata or None)
    return folder / name


def sharded(folder):
    first = shard(folder, {"b": TENSORS["b"]}, "model-00001-of-00002.safetensors")
    second = shard(folder, {"a": TENSORS["a"]}, "model-00002-of-00002.safetensors")
    index = {"weight_map": {"b": first.name, "a": second.name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return [first, second]


def test_parameters_are_counted_without_reading_a_weight(tmp_path):
    file = shard(tmp_path, TENSORS, format="pt")
    header_end = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    size = file.stat().st_size
    with open(file, "r+b") as handle:
        handle.truncate(header_end)
        handle.truncate(size)  # every weight is now zero: only the header can tell
    facts = count_parameters([file])
    assert (facts.parameters, facts.dtype) == (11, "float32")


def test_the_type_is_that_of_most_parameters(tmp_path):
    save_torch({"big": torch.ones(9, dtype=torch.bfloat16), "small": torch.ones(2)}, tmp_path / "m.safetensors")
    facts = count_parameters([tmp_path / "m.safetensors"])
    assert (facts.parameters, facts.dtype) == (11, "bfloat16")


def test_the_digest_does_not_depend_on_sharding_or_metadata(tmp_path):
    whole = shard(tmp_path / "whole", TENSORS, format="pt")
    assert digest_weights([whole]) == digest_weights(sharded(tmp_path / "parts"))


@pytest.mark.parametrize(
    "change",
    [
        {"a": np.full(5, 2, dtype=np.float32)},
        {"a": np.ones((5, 1), dtype=np.float32)},
        {"a": np.ones(5, dtype=np.float16)},
        {"c": np.ones(5, dtype=np.float32)},
    ],
)
def test_the_digest_changes_with_value_shape_type_and_name(tmp_path, change):
    before = shard(tmp_path / "before", TENSORS)
    after = shard(tmp_path / "after", {**TENSORS, **change})
    assert digest_weights([before]) != digest_weights([after])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_tensor(tmp_path, value):
    tensors = {"good": np.ones(3, dtype=np.float32), "layer.bad": np.array([0, value], dtype=np.float32)}
    with pytest.raises(DataError, match=r"layer\.bad"):
        digest_weights([shard(tmp_path, tensors)])


def test_a_value_that_is_not_finite_is_found_in_the_last_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("snaketune.model.weights.PIECE_VALUES", 4)
    values = np.ones(10, dtype=np.float32)
    values[9] = np.nan
    with pytest.raises(DataError):
        digest_weights([shard(tmp_path, {"w": values})])


def test_small_and_integer_types_are_checked_too(tmp_path):
    save_torch({"w": torch.ones(3).to(torch.float8_e4m3fn), "i": torch.ones(2, dtype=torch.int8)}, tmp_path / "good")
    assert digest_weights([tmp_path / "good"])
    save_torch({"w": torch.tensor([torch.nan]).to(torch.float8_e4m3fn)}, tmp_path / "bad")
    with pytest.raises(DataError):
        digest_weights([tmp_path / "bad"])


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    file = shard(tmp_path, TENSORS)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match="copy it again"):
        count_parameters([file])


def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(DataError, match="copy it again"):
        count_parameters([file])


def test_the_single_file_wins_over_the_index(tmp_path):
    sharded(tmp_path)
    assert len(find_weight_files(tmp_path)) == 2
    single = shard(tmp_path, TENSORS)
    assert find_weight_files(tmp_path) == [single]


def test_a_missing_shard_is_named(tmp_path):
    sharded(tmp_path)[1].unlink()
    with pytest.raises(DataError, match="model-00002-of-00002"):
        find_weight_files(tmp_path)


def test_an_index_cannot_name_a_file_elsewhere(tmp_path):
    shard(tmp_path, TENSORS, "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(DataError, match="secret"):
        find_weight_files(folder)


def test_a_file_without_tensors_is_refused(tmp_path):
    with pytest.raises(DataError, match="no weights"):
        count_parameters([shard(tmp_path, {})])


@pytest.mark.parametrize(
    ("name", "word"),
    [("pytorch_model.bin", "save_pretrained"), ("adapter_model.safetensors", "merge"), ("README.md", "no model")],
)
def test_a_folder_without_safetensors_weights_says_what_to_do(tmp_path, name, word):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=word):
        find_weight_files(tmp_path)
