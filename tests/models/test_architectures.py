"""Models that differ from the usual in one thing each: what stopped them once, and what is said instead."""

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from tiny_models import configuration
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from trip import take, write_model

from snaketune.core.errors import ConfigError
from snaketune.evaluate.models import attach_adapter
from snaketune.merge.adapter import read_adapter
from snaketune.model.adapters.lora import put_adapter
from snaketune.model.adapters.targets import targets_of
from snaketune.model.architecture import auto_class, body_of, support_of
from snaketune.model.capabilities import describe_nature, nature_of
from snaketune.train.checkpoints.weight_publishing import publish_weights

LORA = {"r": 4, "target_modules": "all-linear"}


def meta(kind):
    config = configuration(kind)
    with torch.device("meta"):
        return auto_class(config).from_config(config)


def test_a_kernel_that_the_class_lacks_is_one_sentence(tmp_path):
    found = take(tmp_path, "bloom", packed=False, model={"attn_implementation": "sdpa"})
    assert found.error.endswith("has no sdpa for bloom models (it has eager): set it to auto.")


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("llama4_text", "router"),
        ("qwen2_moe", "shared_expert_gate"),
        ("qwen3_next", "shared_expert_gate"),
        ("phimoe", "router"),
        ("mixtral", "gate"),
        ("falcon_h1", "out_proj"),
        ("nemotron_h", "out_proj"),
    ],
)
def test_all_linear_leaves_out_what_an_adapter_cannot_change(kind, layers):
    model = meta(kind)
    targets = targets_of(model, "all-linear", 4)
    assert not [name for name in targets.modules if name.rsplit(".", 1)[-1] == layers]
    tuned = put_adapter(model, LORA, targets)
    assert any("lora_A" in name for name, _ in tuned.named_parameters())


def test_narrow_layers_do_not_limit_the_rank_and_are_named():
    targets = targets_of(meta("gemma3n_text"), "all-linear", 16)
    assert any("has a rank below 16" in remark for remark in targets.remarks)
    assert any(name.endswith("q_proj") for name in targets.modules)


def test_a_router_that_is_named_is_refused_with_its_class():
    with pytest.raises(ConfigError, match="router is a Llama4Router, whose result is more than a matrix product"):
        targets_of(meta("llama4_text"), ["router"], 4)


def test_fused_experts_are_trained_on_request(tmp_path):
    found = take(tmp_path / "one", "qwen3_moe", adapter={"target_parameters": "all-experts"})
    assert found.error is None
    assert "get no adapter" not in found.printed
    assert found.facts["merge"]["check"]["mean_kl"] < 1e-4
    plain = take(tmp_path / "two", "qwen3_moe")
    assert "of the weights) get no adapter; set adapter.target_parameters to all-experts" in plain.printed
    none = take(tmp_path / "three", "llama", adapter={"target_parameters": "all-experts"})
    assert none.error.endswith("all-experts is not in this llama model: leave it out.")


@pytest.mark.parametrize("kind", ["llama", "llama4_text", "modernbert-decoder", "opt", "gpt2", "gemma3_text"])
def test_the_body_is_what_ends_before_the_output_layer(kind):
    model = AutoModelForCausalLM.from_config(configuration(kind)).eval()
    ids = torch.arange(4, 14)[None]
    with torch.no_grad():
        hidden = body_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    assert hidden.shape == (1, 10, 32)


def test_what_a_class_says_of_itself():
    assert (support_of(configuration("llama")).sdpa, support_of(configuration("gemma2")).sdpa) == (True, False)
    assert not support_of(configuration("falcon")).any_kernel
    assert not support_of(configuration("gpt_oss")).runs("flash_attention_2")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("bert", "is not causal"),
        ("roberta", "is not causal"),
        ("bart", "an encoder-decoder"),
        ("vit", "no causal"),
    ],
)
def test_a_model_that_is_not_causal_is_refused_when_it_is_prepared(kind, words):
    config = CONFIG_MAPPING[kind]()
    with pytest.raises(ConfigError, match=rf"model\.name_or_path.*{words}"):
        nature_of(config, False)


def test_a_decoder_of_a_kind_that_mostly_is_none_is_causal():
    assert nature_of(CONFIG_MAPPING["bert"](is_decoder=True), False)["packing"] in (True, False)


def test_a_kind_that_is_not_known_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "tomorrow"}')
    with pytest.raises(ConfigError, match=r"cannot be read by transformers .*tomorrow"):
        describe_nature(tmp_path, False)


@pytest.mark.parametrize(
    "kind", ["opt", "bloom", "mpt", "mamba", "jamba", "qwen3_next", "lfm2_moe", "gpt_oss", "falcon_h1"]
)
def test_models_that_mix_documents_are_known_from_their_configuration(kind):
    assert nature_of(configuration(kind), False)["packing"] is False


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gemma3_text", "gpt2", "mixtral", "phi3", "gpt_neox"])
def test_models_that_keep_documents_apart_are_known_from_their_configuration(kind):
    assert nature_of(configuration(kind), False)["packing"] is True


@pytest.mark.parametrize("kind", ["deepseek_v3", "qwen2_moe"])
def test_layers_beside_experts_get_the_adapter_and_peft_alone_finds_it(tmp_path, kind):
    """PEFT takes their names for those of the experts, puts the adapter there and leaves these layers without one."""
    base = AutoModelForCausalLM.from_pretrained(write_model(tmp_path / "base", configuration(kind)))
    own = put_adapter(base, LORA, targets_of(base, "all-linear", 4)).eval()
    with torch.no_grad():
        for name, weight in own.named_parameters():
            weight.normal_(std=0.2) if "lora_B" in name else None
    adapted = {name.split(".lora_")[0] for name in get_peft_model_state_dict(own)}
    assert any(name.endswith("shared_expert.up_proj" if kind == "qwen2_moe" else "mlp.up_proj") for name in adapted)
    assert not [name for name in adapted if name.endswith("experts")]
    own.save_pretrained(tmp_path / "saved")
    publish_weights(tmp_path / "saved", tmp_path / "adapter", tmp_path / "base", "org/model", None)
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        wanted = own(input_ids=ids).logits
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    ).eval()
    ours = attach_adapter(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    for loaded in (plain, ours):
        with torch.no_grad():
            assert torch.allclose(loaded(input_ids=ids).logits, wanted, atol=1e-5)
    assert read_adapter(tmp_path / "adapter").is_plain


@pytest.mark.parametrize(
    ("kind", "layer", "reason"),
    [
        ("mamba", "dt_proj", "its weight is read without its forward"),
        ("jamba", "dt_proj", "its weight is read without its forward"),
        ("bamba", "out_proj", "its weight is read without its forward"),
        ("deepseek_v32", "wq_b", "makes a discrete choice"),
        ("trocr", "encoder_attn", "attends to something other"),
        ("phi4_multimodal", "audio_embed", "not part of the text model"),
    ],
)
def test_layers_that_text_cannot_train_are_left_out_and_named(kind, layer, reason):
    targets = targets_of(meta(kind), "all-linear", 2)
    assert not [name for name in targets.modules if layer in name.split(".")]
    assert any(reason in remark for remark in targets.remarks)


def test_layers_that_look_at_pictures_are_left_out_of_a_model_that_has_them_among_its_own():
    config = configuration("mllama")
    config.text_config.cross_attention_layers = [1]
    with torch.device("meta"):
        targets = targets_of(auto_class(config).from_config(config), "all-linear", 2)
    assert any("attends to something other than text" in remark for remark in targets.remarks)
    assert not [name for name in targets.modules if "cross_attn" in name]
