"""Parameter counts against published values and against PEFT."""

import pytest
from plan_models import LLAMA_2_7B, LLAMA_2_13B, LLAMA_3_1_8B, MIXTRAL_8X7B, QWEN_3_06B, SMALL, YI_34B
from transformers import GPT2Config, LlamaConfig, MixtralConfig, T5Config

from snaketune.core.errors import ConfigError, PlanError
from snaketune.plan.memory.counting import count_config_parameters, lora_parameters

ALL = {"target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (LLAMA_2_7B, 6_738_415_616),
        (LLAMA_2_13B, 13_015_864_320),
        (YI_34B, 34_388_917_248),
        (LLAMA_3_1_8B, 8_030_261_248),
        (QWEN_3_06B, 596_049_920),
        (MIXTRAL_8X7B, 46_702_792_704),
        (GPT2Config(), 124_439_808),
    ],
)
def test_total_is_the_published_number(config, total):
    assert count_config_parameters(config).total == total


def test_parts_of_llama_2_7b_follow_its_shape():
    counts = count_config_parameters(LLAMA_2_7B)
    assert counts.linear == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert counts.embedding == counts.head == 32000 * 4096
    assert counts.other == (2 * 32 + 1) * 4096
    assert not counts.tied and counts.experts == 0


def test_tied_head_is_multiplied_but_stored_once():
    counts = count_config_parameters(QWEN_3_06B)
    assert counts.tied
    assert counts.head == counts.embedding == 151936 * 1024
    assert counts.multiplied == counts.linear + counts.head
    assert counts.total == counts.linear + counts.embedding + counts.other


def test_a_token_uses_two_of_mixtrals_eight_experts():
    counts = count_config_parameters(MIXTRAL_8X7B)
    assert counts.experts == 32 * 8 * 3 * 4096 * 14336
    assert counts.active_experts == counts.experts // 4
    active = counts.total - counts.experts + counts.active_experts
    assert active == 12_879_925_248


def test_experts_without_a_number_used_are_refused():
    config = MixtralConfig(num_hidden_layers=1, hidden_size=64, intermediate_size=64, vocab_size=64)
    config.num_experts_per_tok = 0
    with pytest.raises(PlanError, match="num_experts_per_tok"):
        count_config_parameters(config)


@pytest.mark.parametrize(
    ("config", "r", "modules", "parameters"),
    [
        (LLAMA_2_13B, 32, "all-linear", 125_173_760),
        (LLAMA_2_13B, 32, ["q_proj", "v_proj"], 26_214_400),
        (YI_34B, 64, ["q_proj", "v_proj"], 86_507_520),
    ],
)
def test_lora_parameters_of_known_adapters(config, r, modules, parameters):
    assert lora_parameters(config, {"r": r, "target_modules": modules}) == parameters


def test_rank_pattern_and_dora_are_counted():
    config = LlamaConfig(**SMALL)
    plain = lora_parameters(config, ALL | {"r": 4})
    query_rank_8 = lora_parameters(config, ALL | {"r": 4, "rank_pattern": {"q_proj": 8}})
    assert query_rank_8 - plain == 4 * 4 * (256 + 256)
    outputs = 4 * (256 + 2 * 128 + 256 + 2 * 704 + 256)
    assert lora_parameters(config, ALL | {"r": 4, "use_dora": True}) - plain == outputs


def test_unknown_target_module_names_the_key():
    with pytest.raises(ConfigError, match=r"adapter.target_modules: \['nothing'\]"):
        lora_parameters(LlamaConfig(**SMALL), {"r": 4, "target_modules": ["nothing"]})


def test_a_model_that_is_no_causal_language_model_is_refused():
    with pytest.raises(PlanError, match="t5"):
        count_config_parameters(T5Config())


def test_counting_leaves_the_configuration_as_it_was():
    config = LlamaConfig(**SMALL)
    before = config.to_dict()
    count_config_parameters(config)
    assert config.to_dict() == before
