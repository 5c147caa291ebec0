"""The gate before a merged model is published: every damage is refused in one sentence, and nothing is published."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from tiny_run import TinyRun, conversations, llama, save_adapter, write_run

from snaketune.core.errors import TrainingError
from snaketune.merge.merge_inputs import MergeInputs, check_origin
from snaketune.merge.merging import merge_adapter
from snaketune.merge.verification import merge_gate
from snaketune.merge.verification.merge_gate import check_in_fresh_process, check_merged_folder

CFG = {"dtype": "bfloat16", "max_shard_size": "30KB", "cpu_threads": 1, "attn_implementation": "sdpa"}
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    torch.set_num_threads(1)
    return write_run(tmp_path_factory.mktemp("run"), conversations(12))


@pytest.fixture
def tiny(written, tmp_path):
    shutil.copytree(written.root, tmp_path / "run")
    return TinyRun(tmp_path / "run")


def material_of(run):
    return MergeInputs(run.model, run.adapter, run.tokens / "chat_template.jinja", (run.rows,))


def refused(run, match, gate=check_merged_folder):
    with pytest.raises(TrainingError, match=match) as raised:
        merge_adapter(material_of(run), CFG, run.root / "merged", gate)
    assert not (run.root / "merged").exists()
    assert not [path for path in run.root.iterdir() if path.name.startswith(".")]
    assert "\n" not in str(raised.value)


def after(damage):
    """Return a gate before which ``damage`` is done to the written folder."""

    def gate(folder, material, cfg):
        damage(folder)
        return check_merged_folder(folder, material, cfg)

    return gate


def spoil(run, change):
    save_file(change(load_file(run.adapter / WEIGHTS)), run.adapter / WEIGHTS)


def shards(folder):
    return sorted(folder.glob("model-*.safetensors"))


def test_what_nobody_touched_passes_the_gate_and_leaves_no_trace_of_it(tiny):
    check = merge_adapter(material_of(tiny), CFG, tiny.root / "merged", check_merged_folder)["check"]
    assert check["verdict"] == "equal" and check["relative_error_fp32"] < 1e-6
    assert len(shards(tiny.root / "merged")) > 2
    assert check_merged_folder(tiny.root / "merged", material_of(tiny), CFG) == check


def test_an_adapter_with_a_number_that_is_none_is_refused(tiny):
    spoil(tiny, lambda tensors: {name: tensor * float("nan") for name, tensor in tensors.items()})
    refused(tiny, "non-finite numbers")


def test_a_truncated_adapter_is_refused(tiny):
    content = (tiny.adapter / WEIGHTS).read_bytes()
    (tiny.adapter / WEIGHTS).write_bytes(content[:-7])
    refused(tiny, "adapter cannot be read")


def test_renamed_keys_are_refused(tiny):
    spoil(tiny, lambda tensors: {name.replace("base_model.model.", ""): tensor for name, tensor in tensors.items()})
    refused(tiny, "tensors do not belong to this model's adapter or are missing")


def test_a_layer_that_the_base_model_lacks_is_refused(tiny):
    spoil(tiny, lambda tensors: {name.replace("layers.1", "layers.7"): tensor for name, tensor in tensors.items()})
    refused(tiny, r"7 modules of the adapter are not in the base model")


def test_an_adapter_of_another_model_is_refused(tiny):
    shutil.rmtree(tiny.adapter)
    save_adapter(llama(300, num_key_value_heads=4), tiny.adapter)
    refused(tiny, "belongs to another model")


def test_a_base_model_of_the_same_shape_that_was_not_trained_on_is_refused(tmp_path):
    model, adapter = tmp_path / "manifest.json", tmp_path / "adapter.manifest.json"
    model.write_text(json.dumps({"weights_digest": "aa" * 16}))
    adapter.write_text(json.dumps({"origins": {"base": "aa" * 16}}))
    check_origin(model, adapter)
    adapter.write_text(json.dumps({"origins": {"base": "bb" * 16}}))
    with pytest.raises(TrainingError, match="trained on different weights"):
        check_origin(model, adapter)


def test_an_adapter_that_learned_nothing_is_refused(tiny):
    spoil(tiny, lambda tensors: {name: t * 0 if "lora_B" in name else t for name, t in tensors.items()})
    refused(tiny, "every lora_B is zero")


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
@pytest.mark.parametrize("bit", [0, 7])
def test_one_flipped_bit_in_a_shard_is_refused(tiny, name, bit):
    def flip(folder):
        for path in shards(folder):
            tensors = load_file(path)
            if name in tensors:
                tensors[name].view(torch.uint8).flatten()[2] ^= 1 << bit
                save_file(tensors, path, metadata={"format": "pt"})

    refused(tiny, f"{name} differs from what was merged", after(flip))


def test_a_sign_flipped_before_a_zero_is_refused(tiny):
    def flip(folder):
        for path in shards(folder):
            tensors = load_file(path)
            if "model.embed_tokens.weight" in tensors:
                tensors["model.embed_tokens.weight"][0] = -0.0
                save_file(tensors, path, metadata={"format": "pt"})

    weights = load_file(tiny.model / "model.safetensors")
    weights["model.embed_tokens.weight"][0] = 0
    save_file(weights, tiny.model / "model.safetensors", metadata={"format": "pt"})
    refused(tiny, "model.embed_tokens.weight differs from what was merged", after(flip))


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}], ids=["plain", "dora"])
def test_a_number_that_is_none_in_a_weight_of_the_base_model_is_refused(tiny, changes):
    shutil.rmtree(tiny.adapter)
    save_adapter(llama(300), tiny.adapter, **changes)
    weights = load_file(tiny.model / "model.safetensors")
    weights["model.norm.weight"][3] = float("inf")
    save_file(weights, tiny.model / "model.safetensors", metadata={"format": "pt"})
    refused(tiny, "model.norm.weight contains non-finite numbers")


def test_a_lost_weight_is_refused(tiny):
    def lose(folder):
        tensors = load_file(shards(folder)[-1])
        tensors.pop(sorted(tensors)[0])
        save_file(tensors, shards(folder)[-1], metadata={"format": "pt"})

    refused(tiny, r"1 weights are missing or belong to another model", after(lose))


def test_a_name_left_by_a_compiler_is_refused(tiny):
    def rename(folder):
        tensors = load_file(shards(folder)[-1])
        tensors = {name.replace("model.", "_orig_mod.model.", 1): tensor for name, tensor in tensors.items()}
        save_file(tensors, shards(folder)[-1], metadata={"format": "pt"})

    refused(tiny, "is a weight name of a compiled model", after(rename))


def test_a_truncated_shard_is_refused(tiny):
    def cut(folder):
        shards(folder)[2].write_bytes(shards(folder)[2].read_bytes()[:-1])

    refused(tiny, "cannot be read", after(cut))


def test_a_missing_chat_template_is_refused(tiny):
    refused(tiny, "loads no chat template", after(lambda folder: (folder / "chat_template.jinja").unlink()))


def test_another_chat_template_is_refused(tiny):
    damage = after(lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"))
    refused(tiny, "a different chat template than the run", damage)


def test_generation_settings_that_changed_or_are_gone_are_refused(tiny):
    def change(folder):
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 7}))

    refused(tiny, "is not the base model's, so answers would be generated differently", after(change))
    refused(tiny, "is missing", after(lambda folder: (folder / "generation_config.json").unlink()))


def test_a_model_whose_answers_would_run_on_is_refused(tiny):
    template = tiny.tokens / "chat_template.jinja"
    template.write_text(template.read_text().replace("+ eos_token", "+ '<|user|>'"))
    name = "generation_config.json"

    def forget(folder):
        (folder / name).write_bytes((tiny.model / name).read_bytes())

    refused(tiny, r"generation_config\.json does not end answers at \[2, \d+\], as", after(forget))
    refused(tiny, r"generation_config\.json does not end answers", after(lambda folder: (folder / name).unlink()))


def test_a_tokenizer_that_changed_or_is_gone_is_refused(tiny):
    def rename(folder):
        path = folder / "tokenizer.json"
        path.write_text(path.read_text().replace("<|user|>", "<|human|>"))

    refused(tiny, "encodes differently", after(rename))
    refused(tiny, "tokenizer", after(lambda folder: (folder / "tokenizer.json").unlink()))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"use_dora": True}, "model.layers.0.self_attn.q_proj.weight"),
        ({"modules_to_save": ["lm_head"]}, "lm_head.weight"),
    ],
    ids=["dora", "modules to save"],
)
def test_a_flipped_bit_is_refused_where_peft_merged(tiny, changes, name):
    shutil.rmtree(tiny.adapter)
    save_adapter(llama(300), tiny.adapter, **changes)

    def flip(folder):
        for path in shards(folder):
            tensors = load_file(path)
            if name in tensors:
                tensors[name].view(torch.uint8).flatten()[0] ^= 1
                save_file(tensors, path, metadata={"format": "pt"})

    assert merge_adapter(material_of(tiny), CFG, tiny.root / "good", check_merged_folder)["check"]["verdict"] == "equal"
    refused(tiny, f"{name} differs from what was merged", after(flip))


def test_a_fresh_process_refuses_with_its_own_sentence(tiny):
    def gate(folder, material, cfg):
        (folder / "generation_config.json").unlink()
        return check_in_fresh_process(folder, material, cfg)

    refused(tiny, r"generation_config\.json is missing", gate)


def test_a_check_that_ends_without_a_word_proves_nothing(tiny, tmp_path, monkeypatch):
    script = tmp_path / "check.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(merge_gate, "SCRIPT", script)
    refused(tiny, "ended with status -9 without a result", check_in_fresh_process)
