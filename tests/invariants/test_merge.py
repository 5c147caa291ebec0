"""The streaming merge gives what PEFT gives, to the last bit that float formats allow."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from snaketune.evaluate.models import ModelSettings
from snaketune.merge.adapter import read_adapter
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.merge_inputs import MergeSettings
from snaketune.merge.merging import write_merged
from snaketune.merge.rounding import NEAREST, Rounding
from snaketune.merge.streaming import merge_streaming, strangers
from snaketune.merge.verification.written_weights import check_written_weights

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
VARIANTS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "alpha pattern": {"alpha_pattern": {"q_proj": 3, r"layers\.1\.mlp\.up_proj": 50}},
    "rank pattern": {"rank_pattern": {"down_proj": 2, r"model.layers.0.self_attn.v_proj": 9}},
    "both, rank-stabilised": {
        "use_rslora": True,
        "rank_pattern": {"k_proj": 7},
        "alpha_pattern": {"k_proj": 5, r".*\.2\..*gate_proj": 1},
    },
    "few modules": {"target_modules": ["q_proj", "v_proj"]},
}


def build(root, model, shard="5GB", **changes):
    model.save_pretrained(root / "base", max_shard_size=shard)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | changes
    tuned = get_peft_model(model, LoraConfig(**settings))
    generator = torch.Generator().manual_seed(4)
    for name, weight in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1, generator=generator)
    tuned.save_pretrained(root / "adapter")
    return root / "base", root / "adapter"


def llama(dtype=torch.float32, **changes):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(SIZES | changes))).to(dtype)


def merged_by_peft(base, adapter, dtype):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True).state_dict()


def stream(base, adapter, output, dtype=None, limit=10**9, kind=NEAREST):
    output.mkdir()
    checkpoint, change = Checkpoint(base), read_adapter(adapter)
    assert change.is_plain
    assert strangers(checkpoint, change) == []
    return merge_streaming(checkpoint, change, output, dtype, limit, Rounding(kind))


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_equals_peft(tmp_path, variant):
    base, adapter = build(tmp_path, llama(), **VARIANTS[variant])
    stream(base, adapter, tmp_path / "merged")
    written, expected = Checkpoint(tmp_path / "merged"), merged_by_peft(base, adapter, torch.float32)
    assert set(written.dtypes) == set(expected)
    for name in written.dtypes:
        torch.testing.assert_close(written.tensor(name), expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_rounded_once(tmp_path, dtype):
    base, adapter = build(tmp_path, llama(dtype))
    stream(base, adapter, tmp_path / "merged")
    written, expected = Checkpoint(tmp_path / "merged"), merged_by_peft(base, adapter, dtype)
    exact = merged_by_peft(base, adapter, torch.float32)
    for name in written.dtypes:
        ours, theirs = written.tensor(name), expected[name]
        assert ours.dtype == dtype
        # PEFT forms the change in float32, so that a sum beside a boundary may be on the other side of it.
        assert int((ours != exact[name].to(dtype)).sum()) <= 1, name
        # PEFT rounds the change before adding it: one unit in the last place of the larger of sum and change.
        unit = torch.finfo(dtype).eps * torch.maximum(ours.float().abs(), (ours - Checkpoint(base).tensor(name)).abs())
        assert bool(((ours.float() - theirs.float()).abs() <= unit + 1e-9).all()), name


def test_qwen2_with_tied_embeddings_and_biases(tmp_path):
    torch.manual_seed(0)
    base, adapter = build(tmp_path, Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)))
    stream(base, adapter, tmp_path / "merged")
    written, expected = Checkpoint(tmp_path / "merged"), merged_by_peft(base, adapter, torch.float32)
    assert set(expected) - set(written.dtypes) == {"lm_head.weight"}
    for name in written.dtypes:
        torch.testing.assert_close(written.tensor(name), expected[name], rtol=0, atol=1e-6)


def test_transposed_weights_of_gpt2(tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=32))
    base, adapter = build(tmp_path, model, target_modules=["c_attn", "c_proj"])
    stream(base, adapter, tmp_path / "merged")
    written, expected = Checkpoint(tmp_path / "merged"), merged_by_peft(base, adapter, torch.float32)
    for name in written.dtypes:
        torch.testing.assert_close(written.tensor(name), expected[name], rtol=0, atol=1e-6)


def test_shards_in_and_out_change_nothing(tmp_path):
    base, adapter = build(tmp_path, llama(), shard="20KB")
    assert len(list(base.glob("*.safetensors"))) > 3
    stream(base, adapter, tmp_path / "one")
    stream(base, adapter, tmp_path / "many", limit=15_000)
    one, many = Checkpoint(tmp_path / "one"), Checkpoint(tmp_path / "many")
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3 and all(file.stat().st_size < 15_000 + 4096 for file in files)
    assert set(one.dtypes) == set(many.dtypes)
    assert all(torch.equal(one.tensor(name), many.tensor(name)) for name in one.dtypes)


def test_another_number_format_is_one_rounding_of_the_float32_sum(tmp_path):
    base, adapter = build(tmp_path, llama())
    dtype = stream(base, adapter, tmp_path / "merged", torch.bfloat16)
    written, exact = Checkpoint(tmp_path / "merged"), merged_by_peft(base, adapter, torch.float32)
    assert dtype == torch.bfloat16
    for name, value in exact.items():
        torch.testing.assert_close(written.tensor(name).float(), value, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "embed_tokens"]}],
    ids=["dora", "modules to save", "embeddings"],
)
def test_what_is_more_than_two_matrices_goes_through_peft(tmp_path, changes):
    base, adapter = build(tmp_path, llama(torch.bfloat16), **changes)
    change = read_adapter(adapter)
    assert not change.is_plain
    (tmp_path / "merged").mkdir()
    nearest = Rounding(NEAREST)
    dtype = write_merged(base, change, tmp_path / "merged", MergeSettings(None, "5GB", ModelSettings(), nearest))
    written, expected = Checkpoint(tmp_path / "merged"), merged_by_peft(base, adapter, torch.float32)
    assert dtype == torch.bfloat16
    assert check_written_weights(tmp_path / "merged", base, change, None, False, nearest).relative_error < 1e-5
    for name in written.dtypes:
        assert torch.equal(written.tensor(name), expected[name].to(torch.bfloat16)), name


@pytest.mark.parametrize("kind", [NEAREST, "auto"])
def test_two_merges_are_the_same_bytes(tmp_path, kind):
    base, adapter = build(tmp_path, llama())
    for name in ("first", "second"):
        stream(base, adapter, tmp_path / name, torch.bfloat16, 30_000, kind)
    files = sorted(file.name for file in (tmp_path / "first").iterdir())
    assert len(files) > 2
    assert all((tmp_path / "first" / f).read_bytes() == (tmp_path / "second" / f).read_bytes() for f in files)


def test_a_checkpoint_that_calls_its_weights_otherwise_goes_through_peft(tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=32))
    base, adapter = build(tmp_path, model, target_modules=["c_attn"])
    path = base / "model.safetensors"
    save_file({name.removeprefix("transformer."): v for name, v in load_file(path).items()}, path, {"format": "pt"})
    change = read_adapter(adapter)
    assert len(strangers(Checkpoint(base), change)) == 2
    (tmp_path / "merged").mkdir()
    write_merged(base, change, tmp_path / "merged", MergeSettings(None, "5GB", ModelSettings()))
    found = check_written_weights(tmp_path / "merged", base, change, None, False)
    assert (found.merged, found.account.changed) == (2, 2)
    written, expected = Checkpoint(tmp_path / "merged"), merged_by_peft(base, adapter, torch.float32)
    for name in written.dtypes:
        torch.testing.assert_close(written.tensor(name), expected[name], rtol=0, atol=1e-6)
