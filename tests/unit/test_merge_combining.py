"""Several adapters as one: what PEFT's combination gives on the whole model, without the base model's weights."""

import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_run import conversations, llama, save_adapter, write_run
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from snaketune.core.errors import TrainingError
from snaketune.merge.adapter import read_adapter
from snaketune.merge.combining import Combination, combine_adapters, hollow_model
from snaketune.merge.merge_inputs import MergeInputs
from snaketune.merge.merging import merge_adapter
from snaketune.merge.verification.merge_gate import check_merged_folder

ONE, TWO = {"use_rslora": True}, {"lora_alpha": 3}
OTHER_RANKS = {"r": 6, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"up_proj": 20}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    torch.set_num_threads(1)
    llama(300).save_pretrained(root / "base")
    for name, changes in (("one", ONE), ("two", TWO), ("ranks", OTHER_RANKS), ("few", {"target_modules": ["q_proj"]})):
        write(root / name, name, **changes)
    return root


def write(folder, seed, **changes):
    """Save a random adapter, another one for each name."""
    torch.manual_seed(sum(map(ord, seed)))
    tuned = get_peft_model(
        llama(300),
        LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | changes)),
    )
    torch.manual_seed(sum(map(ord, seed)))
    for name, weight in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    tuned.save_pretrained(folder)


def combine(root, tmp_path, names, how):
    target = tmp_path / "combined"
    target.mkdir()
    return combine_adapters(root / "base", [root / name for name in names], how, target)


def summed(root, names, weights):
    """The exact weighted sum of the changes, by module."""
    changes: dict[str, torch.Tensor] = {}
    for name, weight in zip(names, weights, strict=True):
        adapter = read_adapter(root / name)
        for module in adapter.modules:
            changes[module] = changes.get(module, 0) + weight * adapter.change(module)
    return changes


@pytest.mark.parametrize("names", [("one", "two"), ("one", "ranks"), ("few", "ranks", "two")])
def test_cat_is_the_exact_weighted_sum(folders, tmp_path, names):
    weights = (0.5, -0.7, 1.5)[: len(names)]
    combined = combine(folders, tmp_path, names, Combination(weights))
    expected = summed(folders, names, weights)
    assert set(combined.modules) == set(expected)
    for module, change in expected.items():
        torch.testing.assert_close(combined.change(module), change, rtol=1e-5, atol=1e-6)


def test_the_saved_adapter_loads_with_plain_peft_and_is_the_same_change(folders, tmp_path):
    combined = combine(folders, tmp_path, ("few", "ranks"), Combination((0.5, 0.5)))
    tuned = PeftModel.from_pretrained(llama(300), tmp_path / "combined")
    for module in combined.modules:
        layer = tuned.get_base_model().get_submodule(module)
        torch.testing.assert_close(layer.get_delta_weight("default"), combined.change(module), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["linear", "ties", "magnitude_prune", "dare_linear", "dare_ties", "svd", "ties_svd"])
def test_a_method_gives_what_peft_gives_on_the_whole_model(folders, tmp_path, method):
    names = ("two", "few") if method.endswith("svd") else ("two", "two2")
    if not (folders / "two2").exists():
        write(folders / "two2", "second", lora_alpha=16)
    combined = combine(folders, tmp_path, names, Combination((0.6, -0.4), method, 0.5, 3))
    whole = PeftModel.from_pretrained(llama(300), folders / names[0], adapter_name="a")
    whole.load_adapter(folders / names[1], adapter_name="b")
    torch.manual_seed(3)
    whole.base_model.add_weighted_adapter(["a", "b"], [0.6, -0.4], "c", method, density=0.5)
    assert combined.modules
    for module in combined.modules:
        expected = whole.get_base_model().get_submodule(module).get_delta_weight("c")
        torch.testing.assert_close(combined.change(module), expected, rtol=1e-4, atol=1e-5)


def test_dare_is_repeated_by_its_seed_alone(folders, tmp_path):
    found = []
    for attempt, seed in enumerate((1, 1, 2)):
        torch.manual_seed(attempt)
        target = tmp_path / str(attempt)
        target.mkdir()
        how = Combination((0.5, 0.5), "dare_linear", 0.5, seed)
        combine_adapters(folders / "base", [folders / "two", folders / "one"], how, target)
        found.append((target / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1] != found[2]


def test_transposed_weights_of_gpt2_combine(tmp_path):
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=1, n_head=4, n_positions=32)).save_pretrained(
        tmp_path / "base"
    )
    for name in ("a", "b"):
        save_adapter(
            AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
            tmp_path / name,
            target_modules=["c_attn"],
            fan_in_fan_out=True,
        )
    combined = combine(tmp_path, tmp_path, ("a", "b"), Combination((1.0, 1.0)))
    for module, change in summed(tmp_path, ("a", "b"), (1, 1)).items():
        assert change.shape == (32, 96)
        torch.testing.assert_close(combined.change(module), change, rtol=1e-5, atol=1e-6)


def test_a_hollow_model_has_the_shapes_and_no_memory(folders):
    weights = list(hollow_model(folders / "base", False).parameters())
    assert sum(weight.numel() for weight in weights) > 20_000
    assert sum(weight.untyped_storage().nbytes() for weight in weights) < 1000


def test_what_cannot_be_combined_is_one_sentence(folders, tmp_path):
    with pytest.raises(TrainingError, match=r"cannot combine .* by linear \(All adapters must have the same r"):
        combine(folders, tmp_path, ("one", "ranks"), Combination((0.5, 0.5), "linear"))
    write(tmp_path / "dora", "dora", use_dora=True)
    shutil.rmtree(tmp_path / "combined")
    (tmp_path / "combined").mkdir()
    with pytest.raises(TrainingError, match="only plain LoRA adapters can be combined"):
        combine_adapters(folders / "base", [tmp_path / "dora"], Combination((1.0,)), tmp_path / "combined")
    save_adapter(llama(300, num_hidden_layers=3), tmp_path / "deeper")
    with pytest.raises(TrainingError, match="tensors do not belong to this model's adapter"):
        combine_adapters(folders / "base", [tmp_path / "deeper"], Combination((1.0,)), tmp_path / "combined")


def test_the_merged_model_is_proven_to_be_base_plus_combination(folders, tmp_path):
    run = write_run(tmp_path / "run", conversations(12))
    others = (folders / "one", folders / "two")
    material = MergeInputs(run.model, run.adapter, run.tokens / "chat_template.jinja", (run.rows,), others)
    merge = {"dtype": "float32", "max_shard_size": "5GB", "method": "cat"}
    merge["adapters"] = [{"run": "one", "weight": 0.5}, {"run": "two", "weight": 2.0}]
    cfg = {"merge": merge, "train": {"cpu_threads": 1}, "model": {"attn_implementation": "sdpa"}}
    facts = merge_adapter(material, cfg, run.root / "merged", check_merged_folder)
    assert facts["check"]["verdict"] == "equal"
    assert [adapter["weight"] for adapter in facts["combination"]["adapters"]] == [0.5, 2.0]
    base, merged = (AutoModelForCausalLM.from_pretrained(path) for path in (run.model, run.root / "merged"))
    for module, change in summed(folders, ("one", "two"), (0.5, 2.0)).items():
        found = merged.get_submodule(module).weight - base.get_submodule(module).weight
        torch.testing.assert_close(found.detach(), change, rtol=1e-4, atol=1e-5)
