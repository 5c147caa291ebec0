"""Every training method: it learns, resumes to the same bytes, publishes, and its merged model is the tuned one."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import ROW, SETTINGS, VOCABULARY, StopAt, break_off, configuration, lines
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from snaketune.evaluate.likelihood import measure_likelihood
from snaketune.evaluate.models import ModelSettings, attach_adapter, is_whole_model, load_model
from snaketune.merge.adapter import read_adapter
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.merge_inputs import MergeSettings
from snaketune.merge.merging import write_merged
from snaketune.merge.trained_model import copy_trained, read_trained_model
from snaketune.train.checkpoints.weight_publishing import publish_weights
from snaketune.train.device import prepare_arithmetic
from snaketune.train.facts import trained_parameters
from snaketune.train.loading.adapting import add_adapter
from snaketune.train.loading.loading import load_base
from snaketune.train.run import prepare_run, train
from snaketune.train.signals import StopRequest

FULL = {"adapter": {"type": "none"}}
METHODS = {
    "full": FULL,
    "qlora": {"model": {"quantization": "4bit"}},
    "8bit": {"model": {"quantization": "8bit"}},
    "rank-stabilised": {"adapter": {"use_rslora": True}},
    "dora": {"adapter": {"use_dora": True}},
    "dora on 4 bits": {"adapter": {"use_dora": True}, "model": {"quantization": "4bit"}},
    "patterns": {"adapter": {"rank_pattern": {"down_proj": 9}, "alpha_pattern": {r"layers\.1\..*q_proj": 2}}},
    "whole layers beside": {"adapter": {"modules_to_save": ["embed_tokens", "lm_head"]}},
    "bfloat16 adapter": {"adapter": {"dtype": "bfloat16"}},
    "bfloat16 dora": {"adapter": {"dtype": "bfloat16", "use_dora": True}},
}


def method(name, **train_keys):
    cfg = configuration(**({"learning_rate": 2e-3} if name == "full" else {}) | train_keys)
    for section, changes in METHODS[name].items():
        cfg[section] |= changes
    return cfg


def weights_digest(folder: Path) -> str:
    """The digest of all weights that a folder holds."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*model*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def finish(base, rows, work: Path, cfg, start=None) -> Path:
    """Train and publish; return the published folder."""
    finished = train(base, *rows, cfg, SETTINGS, work / "work", start)
    publish_weights(finished.checkpoint, work / "adapter", base, "tiny", None)
    return work / "adapter"


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_resumes_to_the_same_bytes_and_merges(base, rows, tmp_path, name):
    cfg = method(name)
    published = finish(base, rows, tmp_path / "whole", cfg)
    found = lines(tmp_path / "whole" / "work")
    assert min(line["loss"] for line in found[-3:]) < found[0]["loss"]
    break_off(base, rows, cfg, tmp_path / "parts" / "work", at=7)
    assert weights_digest(finish(base, rows, tmp_path / "parts", cfg)) == weights_digest(published)
    assert lines(tmp_path / "parts" / "work") == found
    assert is_whole_model(published) == (name == "full")
    check_merge(base, rows, published, tmp_path / "merged")


def check_merge(base, rows, published: Path, folder: Path) -> None:
    """Merge into the original base and compare with what was trained, on that base."""
    folder.mkdir()
    settings = ModelSettings()
    if is_whole_model(published):
        copy_trained(Checkpoint(base), read_trained_model(published), folder, None, 10**9)
        tuned = load_model(published, settings)
    else:
        write_merged(base, read_adapter(published), folder, MergeSettings(None, "5GB", settings))
        tuned = attach_adapter(load_model(base, settings), published)
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    tuned_losses, merged_losses = (
        measure_likelihood(model, rows[1], settings).nll for model in (tuned, load_model(folder, settings))
    )
    untouched = measure_likelihood(load_model(base, settings), rows[1], settings).nll
    assert merged_losses == pytest.approx(tuned_losses, rel=1e-4)
    assert abs(untouched - tuned_losses).max() > 0.01


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantised_base_gives_the_gradients_of_its_rounded_weights(base, rows, quantization):
    device = prepare_arithmetic(1)
    cfg = configuration()
    cfg["model"]["quantization"] = quantization
    quantised = load_base(base, cfg, device)
    rounded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for name, module in rounded.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.weight.data = dequantised(quantised.get_submodule(name))
    gradients, losses = [], []
    for model in (quantised, rounded):
        model.set_attn_implementation("sdpa")  # whole rows here, without the boundaries of documents
        torch.manual_seed(0)
        tuned = add_adapter(model, cfg["adapter"]).train()
        ids = torch.from_numpy(rows[0].take("input_ids", [0, 1]).astype("int64"))
        loss = tuned(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: p.grad for name, p in tuned.named_parameters() if "lora_B" in name})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-6), name


def dequantised(module) -> torch.Tensor:
    """The weight that a quantised layer stands for."""
    import bitsandbytes as bnb

    if isinstance(module, bnb.nn.Linear4bit):
        return bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state).float()
    return module.weight.data.float() * module.weight.SCB[:, None] / 127


def test_an_evaluation_in_between_does_not_change_what_a_quantised_base_computes(base, rows, tmp_path):
    measured, plain = method("qlora", eval_steps=3), method("qlora")
    digests = [weights_digest(finish(base, rows, tmp_path / str(n), cfg)) for n, cfg in enumerate((measured, plain))]
    assert digests[0] == digests[1]


def test_a_whole_model_is_published_as_a_model_folder(base, rows, tmp_path):
    published = finish(base, rows, tmp_path, method("full"))
    before, after = LlamaForCausalLM.from_pretrained(base), LlamaForCausalLM.from_pretrained(published)
    assert after.config.use_cache
    assert trained_parameters(published) == sum(p.numel() for p in before.parameters())
    changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert all(changed)
    assert {path.name for path in published.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}


def test_weights_that_are_trained_are_float32_whatever_the_base_is_stored_in(base, rows, tmp_path):
    half = tmp_path / "half"
    LlamaForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    model = load_base(half, method("full"), prepare_arithmetic(1))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def tied(folder: Path) -> Path:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=ROW, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("modules", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_tied_embeddings_stay_tied_when_they_are_trained(rows, tmp_path, modules):
    base = tied(tmp_path / "tied")
    cfg = configuration(max_steps=4)
    cfg["adapter"]["modules_to_save"] = modules
    published = finish(base, rows, tmp_path, cfg)
    check_merge(base, rows, published, tmp_path / "merged")
    lora = sum(t.numel() for name, t in load_file(published / "adapter_model.safetensors").items() if "lora_" in name)
    assert trained_parameters(published) == lora + VOCABULARY * 32


def test_a_whole_model_with_tied_embeddings(rows, tmp_path):
    base = tied(tmp_path / "tied")
    published = finish(base, rows, tmp_path, method("full", max_steps=4))
    check_merge(base, rows, published, tmp_path / "merged")


def test_going_on_from_an_adapter_starts_where_it_ended(base, rows, tmp_path):
    first = finish(base, rows, tmp_path / "first", configuration())
    start = first / "adapter_model.safetensors"
    device = prepare_arithmetic(1)
    model = add_adapter(load_base(base, configuration(), device), configuration()["adapter"], start)
    saved = load_file(start)
    own = dict(model.named_parameters())
    assert all(torch.equal(own[name.replace(".weight", ".default.weight")], tensor) for name, tensor in saved.items())
    second = finish(base, rows, tmp_path / "second", configuration(learning_rate=1e-3), start)
    fresh, gone_on = (lines(tmp_path / name / "work")[0]["loss"] for name in ("first", "second"))
    assert gone_on < fresh
    assert weights_digest(second) != weights_digest(first)


def test_going_on_resumes_to_the_same_bytes(base, rows, tmp_path):
    start = finish(base, rows, tmp_path / "first", configuration(max_steps=4)) / "adapter_model.safetensors"
    cfg = configuration(learning_rate=1e-3)
    whole = finish(base, rows, tmp_path / "whole", cfg, start)
    work = tmp_path / "parts" / "work"
    run = prepare_run(base, *rows, cfg, SETTINGS, work, prepare_arithmetic(1), StopRequest(), start)
    run.trainer.add_callback(StopAt(7))
    with pytest.raises(KeyboardInterrupt):
        run.trainer.train()
    assert weights_digest(finish(base, rows, tmp_path / "parts", cfg, start)) == weights_digest(whole)
