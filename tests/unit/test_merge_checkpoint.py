import orjson
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from snaketune.common.errors import TrainingError
from snaketune.merge.checkpoint import Checkpoint, plan_shards, size_in_bytes, weight_files, write_shards


def test_sizes_are_decimal():
    assert [size_in_bytes(text) for text in ("5GB", "12MB", "300KB")] == [5 * 10**9, 12 * 10**6, 300_000]


def test_shards_are_filled_in_order_and_a_large_tensor_stands_alone():
    sizes = {"a": 4, "b": 4, "c": 3, "d": 20, "e": 1}
    assert plan_shards(sizes, 10) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert plan_shards(sizes, 32) == [["a", "b", "c", "d", "e"]]
    assert plan_shards({"a": 50}, 10) == [["a"]]


def test_several_shards_come_with_an_index_and_one_without(tmp_path):
    tensors = {"a": torch.ones(4), "b": torch.zeros(8, dtype=torch.bfloat16)}
    sizes = {"a": 16, "b": 16}
    write_shards(tmp_path, [["a"], ["b"]], tensors.__getitem__, sizes)
    index = orjson.loads((tmp_path / "model.safetensors.index.json").read_bytes())
    assert index["metadata"] == {"total_size": 32}
    assert index["weight_map"] == {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    with safe_open(tmp_path / index["weight_map"]["a"], "pt") as file:
        assert file.metadata() == {"format": "pt"}
    (tmp_path / "single").mkdir()
    write_shards(tmp_path / "single", [["a", "b"]], tensors.__getitem__, sizes)
    assert [path.name for path in (tmp_path / "single").iterdir()] == ["model.safetensors"]


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
