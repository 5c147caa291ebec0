"""Every kind of adapter through the whole merge and its gate: proven equal, or refused in one sentence."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_run import TinyRun, conversations, llama, write_run
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from snaketune.core.errors import TrainingError
from snaketune.merge.merge_inputs import MergeInputs
from snaketune.merge.merging import merge_adapter
from snaketune.merge.verification.merge_gate import check_merged_folder

CFG = {"dtype": "bfloat16", "max_shard_size": "30KB", "cpu_threads": 1, "attn_implementation": "sdpa"}
TIED = {"tie_word_embeddings": True}
PATTERNS = {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 9}, "alpha_pattern": {"q_proj": 5, "v_proj": 1}}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    torch.set_num_threads(1)
    run = write_run(tmp_path_factory.mktemp("run"), conversations(12))
    shutil.rmtree(run.adapter)
    return run


@pytest.fixture
def tiny(written, tmp_path):
    shutil.copytree(written.root, tmp_path / "run")
    return TinyRun(tmp_path / "run")


def train(run, model, saving=None, **changes):
    """Put an adapter with random numbers, as PEFT saves it, into the run."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | changes
    torch.manual_seed(2)
    tuned = get_peft_model(model, LoraConfig(**settings))
    for weight in (weight for weight in tuned.parameters() if weight.requires_grad):
        torch.nn.init.normal_(weight, std=0.1)
    tuned.save_pretrained(run.adapter, **(saving or {}))


def merge(run):
    material = MergeInputs(run.model, run.adapter, run.tokens / "chat_template.jinja", (run.rows,))
    return merge_adapter(material, CFG, run.root / "merged", check_merged_folder)["check"]


def refused(run, match):
    with pytest.raises(TrainingError, match=match) as raised:
        merge(run)
    assert not (run.root / "merged").exists() and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("model", "adapter", "tensors"),
    [
        ({}, {"use_rslora": True, **PATTERNS}, 28),
        ({}, {"use_dora": True, **PATTERNS}, 42),
        ({}, {"modules_to_save": ["embed_tokens", "lm_head"]}, 30),
        ({}, {"trainable_token_indices": [5, 6]}, 29),
        ({}, {"target_modules": ["q_proj", "embed_tokens"], "use_rslora": True}, 7),
        (TIED, {}, 28),
        (TIED, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, 30),
        (TIED, {"modules_to_save": ["embed_tokens"]}, 29),
        (TIED, {"trainable_token_indices": [5, 6]}, 29),
    ],
    ids=lambda value: ",".join(value) or "plain" if isinstance(value, dict) else str(value),
)
def test_it_is_proven_equal(tiny, model, adapter, tensors):
    llama(300, **model).save_pretrained(tiny.model)
    train(tiny, llama(300, **model), **adapter)
    check = merge(tiny)
    assert check["verdict"] == "equal" and 0 < check["mean_kl"] < 2e-4
    assert check["adapter_tensors"] == tensors and check["relative_error_fp32"] < 1e-5


def test_transposed_weights_are_proven_equal(tiny):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2)
    GPT2LMHeadModel(config).save_pretrained(tiny.model)
    model = AutoModelForCausalLM.from_pretrained(tiny.model)
    train(tiny, model, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, rank_pattern={"c_attn": 3})
    check = merge(tiny)
    assert check["tensors_merged"] == 6 and check["relative_error_fp32"] < 1e-5 and check["mean_kl"] < 1e-3


def test_embeddings_saved_beside_an_adapter_are_merged_as_well(tiny):
    model = llama(300)
    with torch.no_grad():
        model.get_input_embeddings().weight[7] += 0.5
    train(tiny, model, {"save_embedding_layers": True})
    assert merge(tiny)["adapter_tensors"] == 30
    rows = [
        next(
            tensors[name]
            for path in sorted(folder.glob("*.safetensors"))
            for tensors in [load_file(path)]
            for name in tensors
            if name.endswith("embed_tokens.weight")
        )
        for folder in (tiny.model, tiny.root / "merged")
    ]
    assert (rows[0].bfloat16() != rows[1]).any(dim=1).nonzero().flatten().tolist() == [7]


def test_a_trained_output_layer_is_not_said_to_be_the_embedding(tiny):
    llama(300, **TIED).save_pretrained(tiny.model)
    train(tiny, llama(300, **TIED), modules_to_save=["lm_head"])
    assert merge(tiny)["verdict"] == "equal"
    assert json.loads((tiny.root / "merged" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("changes", [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}], ids=["beside", "trained"])
def test_added_tokens_that_the_base_model_lacks_are_refused(tiny, changes):
    model = llama(300)
    model.resize_token_embeddings(310, mean_resizing=False)
    train(tiny, model, {} if changes else {"save_embedding_layers": True}, **changes)
    refused(tiny, "has 310 token embeddings and the base model 300: it was trained with added tokens")


def test_a_base_model_with_room_for_added_tokens_is_merged(tiny):
    model = llama(300)
    model.resize_token_embeddings(310, mean_resizing=False)
    model.save_pretrained(tiny.model)
    train(tiny, model, modules_to_save=["embed_tokens", "lm_head"])
    assert merge(tiny)["verdict"] == "equal"
    assert AutoModelForCausalLM.from_pretrained(tiny.root / "merged").get_input_embeddings().weight.shape[0] == 310


def test_an_adapter_on_tied_embeddings_is_refused_with_the_numbers(tiny):
    """PEFT applies it to the input alone, and merging would change the output as well."""
    llama(300, **TIED).save_pretrained(tiny.model)
    train(tiny, llama(300, **TIED), target_modules=["q_proj", "embed_tokens"])
    refused(tiny, r"match the tuned one: logits_error [\d.e-]+ \(limit 0.005\)")
