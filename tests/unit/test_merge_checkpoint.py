import orjson
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from snaketune.core.errors import TrainingError
from snaketune.merge.checkpoint import Checkpoint, plan_shards, size_in_bytes, weight_files, write_shards


def test_sizes_are_decimal():
    assert [size_in_bytes(text) for text in ("5GB", "12MB", "300KB")] == [5 * 10**9, 12 * 10**6, 300_000]


def test_shards_are_filled_in_order_and_a_large_tensor_stands_alone():
    sizes = {"a": 4, "b": 4, "c": 3, "d": 20, "e": 1}
    assert plan_shards(sizes, 10) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert plan_shards(sizes, 32) == [["a", "b", "c", "d", "e"]]
    assert plan_shards({"a": 50}, 10) == [["a"]]


def test_several_shards_come_with_an_index_and_one_without(tmp_path):
    tensors = {"a": torch.ones(4), "b": torch.zeros(2, 4, dtype=torch.bfloat16), "c": torch.tensor(7)}
    formats = {name: tensor.dtype for name, tensor in tensors.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write_shards(tmp_path, [["b", "a"], ["c"]], tensors.__getitem__, formats, shapes)
    index = orjson.loads((tmp_path / "model.safetensors.index.json").read_bytes())
    assert index["metadata"] == {"total_size": 40}
    first, second = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    assert index["weight_map"] == {"b": first, "a": first, "c": second}
    with safe_open(tmp_path / first, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    found = load_file(tmp_path / first) | load_file(tmp_path / second)
    assert set(found) == set(tensors) and all(torch.equal(found[name], tensors[name]) for name in tensors)
    (tmp_path / "single").mkdir()
    write_shards(tmp_path / "single", [["a", "b"]], tensors.__getitem__, formats, shapes)
    assert [path.name for path in (tmp_path / "single").iterdir()] == ["model.safetensors"]


def test_numbers_of_any_width_start_where_they_can_be_mapped(tmp_path):
    tensors = {
        "bytes": torch.arange(3, dtype=torch.uint8),
        "half": torch.randn(5).half(),
        "whole": torch.arange(9),
        "flag": torch.tensor([True, False, True]),
        "single": torch.randn(3, 3),
    }
    formats = {name: tensor.dtype for name, tensor in tensors.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write_shards(tmp_path, [list(tensors)], tensors.__getitem__, formats, shapes)
    found = load_file(tmp_path / "model.safetensors")
    assert all(found[name].dtype == formats[name] and torch.equal(found[name], tensors[name]) for name in tensors)


def test_only_the_files_of_the_index_count(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model-1.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "consolidated.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_bytes(orjson.dumps(index))
    assert [path.name for path in weight_files(tmp_path)] == ["model-1.safetensors"]
    assert Checkpoint(tmp_path).tensor("a").tolist() == [1, 1]


def test_main_dtype_is_that_of_most_weights(tmp_path):
    tensors = {
        "norm": torch.ones(4),
        "weight": torch.ones(9, 9, dtype=torch.float16),
        "steps": torch.ones(999, dtype=torch.int64),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert Checkpoint(tmp_path).main_dtype() == torch.float16


def test_damaged_missing_and_quantised_files_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x10")
    with pytest.raises(TrainingError, match=r"model\.safetensors cannot be read"):
        Checkpoint(tmp_path)
    save_file({"weight": torch.ones(4, 4).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(TrainingError, match=r"F8_E4M3.*unquantised base"):
        Checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_bytes(orjson.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(TrainingError, match=r"gone\.safetensors cannot be read"):
        Checkpoint(tmp_path)
