"""Operations by formula against torch's own counter."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from plan_models import LLAMA_3_1_8B, QWEN_3_06B, SMALL, SMALL_MODELS
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma3TextConfig, Qwen3NextConfig

from snaketune.plan.flops import ModelShape, hardware_flops, model_flops, recomputed_layers, shape_of
from snaketune.plan.memory.counting import meta_model
from snaketune.plan.memory.meta_ops import without_packing_detection

TOKENS = 512


def counted(config, adapter=None, every=0):
    """Return the FLOPs torch counts for one step of one document, and the adapter's parameters."""
    model = base = meta_model(config, dtype=torch.bfloat16, attn_implementation="eager")
    if adapter:
        with torch.device("meta"):
            model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **adapter), autocast_adapter_dtype=False)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    if every:
        base.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
    ids = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, without_packing_detection():
        model.train()(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return counter.get_total_flops(), sum(p.numel() for p in model.parameters() if p.requires_grad)


# Eager attention computes the whole square, the formula half of it: twice the sum makes them comparable.
SQUARES = 2 * TOKENS**2


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_full_training_is_within_1_percent_of_the_counter(name):
    config = SMALL_MODELS[name]
    measured, _ = counted(config)
    assert model_flops(shape_of(config), TOKENS, SQUARES, full=True) == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "v_proj"]])
def test_lora_on_an_8b_shape_is_within_2_percent_of_the_counter(modules):
    config = type(LLAMA_3_1_8B)(**{**LLAMA_3_1_8B.to_dict(), "num_hidden_layers": 8})
    measured, lora = counted(config, {"r": 16, "target_modules": modules})
    expected = model_flops(shape_of(config), TOKENS, SQUARES, lora)
    assert measured < expected
    assert expected == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("every", [1, 2])
def test_recomputation_is_within_2_percent_of_the_counter(every):
    config = type(LLAMA_3_1_8B)(**{**LLAMA_3_1_8B.to_dict(), "num_hidden_layers": 8})
    measured, lora = counted(config, {"r": 16, "target_modules": "all-linear"}, every)
    expected = hardware_flops(shape_of(config), TOKENS, SQUARES, lora, checkpoint_every=every)
    assert expected == pytest.approx(measured, rel=0.02)


def test_shape_counts_the_head_and_not_the_input_embedding():
    shape = shape_of(QWEN_3_06B)
    assert shape.head_parameters == 151936 * 1024
    assert shape.linear_parameters == 28 * (2 * 1024 * 2048 + 2 * 1024 * 1024 + 3 * 1024 * 3072) + 151936 * 1024
    assert (shape.layers, shape.attention_width) == (28, 2048)


def test_formula_of_the_contract():
    shape = ModelShape(linear_parameters=1000, head_parameters=100, layers=2, attention_width=8)
    assert model_flops(shape, 10, 60, lora_parameters=50) == 10 * 4 * 1000 + 6 * 10 * 50 + 6 * 2 * 8 * 60
    assert model_flops(shape, 10, 60, full=True) == 10 * 6 * 1000 + 6 * 2 * 8 * 60


def test_full_recomputation_adds_a_forward_pass_without_the_head():
    shape = ModelShape(linear_parameters=1000, head_parameters=100, layers=4, attention_width=8)
    again = hardware_flops(shape, 10, 60, 50, checkpoint_every=1) - model_flops(shape, 10, 60, 50)
    assert again == 2 * 10 * (900 + 50) + 2 * 4 * 8 * 60
    assert hardware_flops(shape, 10, 60, 50, checkpoint_every=2) - model_flops(shape, 10, 60, 50) == again / 2
    assert hardware_flops(shape, 10, 60, 50) == model_flops(shape, 10, 60, 50)


@pytest.mark.parametrize(("layers", "every", "expected"), [(32, 0, 0), (32, 1, 32), (32, 4, 8), (33, 4, 9), (5, 2, 3)])
def test_recomputed_layers(layers, every, expected):
    assert recomputed_layers(layers, every) == expected


def test_a_window_bounds_the_attention_of_its_layers():
    shape = shape_of(Gemma3TextConfig(sliding_window=512))
    assert (shape.layers, shape.windowed_layers, shape.window) == (26, 22, 512)
    long = model_flops(shape, 8192, 8192**2) - 8192 * 4 * shape.linear_parameters
    assert long == 6 * shape.attention_width * (4 * 8192**2 + 22 * 2 * 512 * 8192)
    short = model_flops(shape, 8192, 32 * 256**2) - 8192 * 4 * shape.linear_parameters
    assert short == 6 * shape.attention_width * 26 * 32 * 256**2


def test_layers_without_pairwise_attention_are_known():
    small = {**SMALL, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 64}
    shape = shape_of(Qwen3NextConfig(**small, shared_expert_intermediate_size=64, head_dim=64))
    assert (shape.layers, shape.recurrent_layers) == (4, 3)
