"""Several GPUs: cheaper only if the speed-up exceeds the price ratio."""

from dataclasses import replace

import pytest
from plan_models import QWEN_3_06B

from snaketune.plan.advice.strategies import Strategy, compare_strategies, memory_per_gpu
from snaketune.plan.memory.counting import count_config_parameters
from snaketune.plan.memory.memory import memory_plan
from snaketune.plan.memory_settings import MemorySetting

H100 = Strategy("single", 1, 2.50)


def test_the_documents_comparison_with_equal_optimisations():
    # 38 h on one H100: two H100 in 20 h, four A100-40 for 4.80 an hour in 20 h.
    fsdp = Strategy("fsdp", 2, 2.50, efficiency=0.95)
    zero3 = Strategy("deepspeed_zero3", 4, 1.20, efficiency=0.95, gpu_speed=0.5)
    rows = {row.strategy.name: row for row in compare_strategies(H100, 38, [fsdp, zero3])}
    assert rows["single"].cost_usd == 95
    assert rows["fsdp"].hours == pytest.approx(20)
    assert rows["fsdp"].cost_usd == pytest.approx(100)
    assert rows["deepspeed_zero3"].cost_usd == pytest.approx(96)
    assert [rows[name].price_ratio for name in ("fsdp", "deepspeed_zero3")] == pytest.approx([2.0, 1.92])
    assert not any(rows[name].is_cheaper for name in ("fsdp", "deepspeed_zero3"))


@pytest.mark.parametrize(("price", "cheaper"), [(1.0, True), (1.2, False), (1.5, False)])
def test_the_rule_is_the_comparison_of_costs(price, cheaper):
    row = next(
        r for r in compare_strategies(H100, 10, [Strategy("ddp", 4, price, 0.95, 0.5)]) if r.strategy.name == "ddp"
    )
    assert row.is_cheaper == (row.cost_usd < 25) == cheaper


def test_cheapest_first_then_fastest():
    rows = compare_strategies(H100, 10, [Strategy("ddp", 2, 2.50), Strategy("ddp", 8, 9.0), Strategy("ddp", 4, 1.0)])
    assert [row.strategy.gpus for row in rows] == [4, 2, 1, 8]


def test_the_verdict_shows_both_numbers():
    row = compare_strategies(H100, 10, [Strategy("ddp", 2, 2.50, efficiency=0.9)])[1]
    assert row.sentence() == (
        "2 x ddp: 1.80 times as fast at 2.00 times the hourly price is not cheaper (5.6 h, $27.78)"
    )


EXACT = MemorySetting(512, adapter=None, autocast="")
LAYERS = QWEN_3_06B.num_hidden_layers


def test_sharding_divides_the_model_and_not_the_activations():
    plan = memory_plan(QWEN_3_06B, EXACT)
    for name in ("fsdp", "deepspeed_zero3"):
        shard = memory_per_gpu(plan, EXACT, name, 4, LAYERS)
        assert shard.optimizer == plan.optimizer / 4
        assert shard.weights == plan.weights / 4
        assert shard.activations == plan.activations
        assert shard.workspace == plan.workspace + 2 * plan.weights / LAYERS
        assert shard.total < plan.total
    assert memory_per_gpu(plan, EXACT, "ddp", 4, LAYERS) == plan


def test_stage_2_divides_gradients_and_optimizer_alone():
    plan = memory_plan(QWEN_3_06B, EXACT)
    shard = memory_per_gpu(plan, EXACT, "deepspeed_zero2", 4, LAYERS)
    assert shard == replace(plan, gradients=plan.gradients / 4, optimizer=plan.optimizer / 4)


def test_what_is_offloaded_is_not_on_the_gpu():
    plan = memory_plan(QWEN_3_06B, EXACT)
    away = memory_per_gpu(plan, EXACT, "deepspeed_zero3", 2, LAYERS, "cpu")
    assert (away.optimizer, away.weights, away.gradients) == (0, 0, plan.gradients / 2)
    away = memory_per_gpu(plan, EXACT, "deepspeed_zero2", 2, LAYERS, "cpu")
    assert (away.optimizer, away.weights) == (0, plan.weights)


@pytest.mark.parametrize("width", ["float32", "bfloat16"])
def test_deepspeed_takes_sixteen_bytes_a_weight_in_mixed_precision(width):
    setting = MemorySetting(512, adapter=None, weight_dtype=width)
    held = memory_per_gpu(memory_plan(QWEN_3_06B, setting), setting, "deepspeed_zero2", 1, LAYERS)
    weights = count_config_parameters(QWEN_3_06B).total / 1e9
    assert (held.weights, held.gradients, held.optimizer) == pytest.approx((2 * weights, 2 * weights, 12 * weights))


def test_an_adapter_under_deepspeed_leaves_the_base_as_it_is():
    setting = MemorySetting(512)
    plan = memory_plan(QWEN_3_06B, setting)
    held = memory_per_gpu(plan, setting, "deepspeed_zero2", 1, LAYERS)
    assert (held.weights, held.adapter, held.gradients) == (plan.weights, plan.adapter / 2, plan.gradients / 2)
    assert held.optimizer == plan.optimizer + plan.adapter
