"""Choosing recomputation for a budget, and the one setting to change when nothing fits."""

from dataclasses import replace

import pytest
from plan_models import LLAMA_3_1_8B, QWEN_3_06B

from snaketune.plan.memory.fitting import choose_checkpointing, fits_budget, next_smaller_setting
from snaketune.plan.memory.memory import memory_plan
from snaketune.plan.memory_settings import MemorySetting

SETTING = MemorySetting(1024, 4)


def total(setting):
    return memory_plan(QWEN_3_06B, setting).total


def test_least_recomputation_that_fits_with_the_margin_is_taken():
    for every in (0, 4, 2, 1):
        needed = 1.1 * total(replace(SETTING, checkpoint_every=every))
        choice = choose_checkpointing(QWEN_3_06B, SETTING, needed + 0.001)
        assert (choice.checkpoint_every, choice.fits) == (every, True)
        assert fits_budget(choice.plan, needed + 0.001) and not fits_budget(choice.plan, needed - 0.001)


def test_nothing_fits_gives_full_recomputation_and_says_so():
    choice = choose_checkpointing(QWEN_3_06B, SETTING, 1.0)
    assert (choice.checkpoint_every, choice.fits) == (1, False)


def test_an_h100_runs_8192_tokens_of_an_8b_adapter_without_recomputation():
    assert choose_checkpointing(LLAMA_3_1_8B, MemorySetting(4096, 1), 80).checkpoint_every == 0
    assert choose_checkpointing(LLAMA_3_1_8B, MemorySetting(4096, 1), 24).checkpoint_every == 1


def test_fewer_rows_come_first_and_keep_the_effective_batch():
    change = next_smaller_setting(QWEN_3_06B, SETTING, 1.1 * total(replace(SETTING, micro_batch=2)) + 0.001)
    assert (change.key, change.value, change.fits) == ("train.per_device_train_batch_size", 2, True)
    assert "multiply train.gradient_accumulation_steps by 2" in change.sentence()
    assert f"{change.plan.total:.1f} GB estimated" in change.sentence()
    change = next_smaller_setting(QWEN_3_06B, SETTING, 1.1 * total(replace(SETTING, micro_batch=1)) + 0.001)
    assert change.value == 1


def test_the_order_after_the_rows():
    one = replace(SETTING, micro_batch=1, chunked_loss=False)
    expected = [
        ("train.gradient_checkpointing", True, replace(one, checkpoint_every=4)),
        ("train.gradient_checkpointing", True, replace(one, checkpoint_every=1)),
    ]
    for key, value, smaller in expected:
        change = next_smaller_setting(QWEN_3_06B, one, 1.1 * total(smaller) + 0.001)
        assert (change.key, change.value, change.setting) == (key, value, smaller)
    recomputed = replace(one, checkpoint_every=1)
    chunked = replace(recomputed, chunked_loss=True)
    assert next_smaller_setting(QWEN_3_06B, recomputed, 1.1 * total(chunked) + 0.001).key == "train.chunked_loss"
    quantized = replace(chunked, quantization="8bit")
    change = next_smaller_setting(QWEN_3_06B, chunked, 1.1 * total(quantized) + 0.001)
    assert (change.key, change.value) == ("model.quantization", "8bit")
    four = replace(chunked, quantization="4bit")
    change = next_smaller_setting(QWEN_3_06B, four, 1.1 * total(replace(four, row_length=512)) + 0.001)
    assert (change.key, change.value) == ("tokens.max_length", 512)


def test_when_no_change_is_enough_the_largest_saving_is_named():
    change = next_smaller_setting(QWEN_3_06B, replace(SETTING, checkpoint_every=2), 0.5)
    assert not change.fits
    assert change.key != "tokens.max_length"
    assert "that alone is not enough" in change.sentence()


def test_nothing_is_left_to_change():
    smallest = MemorySetting(128, 1, quantization="4bit", checkpoint_every=1)
    assert next_smaller_setting(QWEN_3_06B, smallest, 0.1) is None


def test_quantisation_is_not_advised_where_it_does_not_exist():
    cpu = MemorySetting(128, 1, weight_dtype="float32", autocast="", attention="sdpa", device="cpu", checkpoint_every=1)
    assert next_smaller_setting(QWEN_3_06B, cpu, 0.1) is None
    full = MemorySetting(128, 1, adapter=None, checkpoint_every=1)
    found = next_smaller_setting(QWEN_3_06B, full, 0.1)
    assert found is not None and found.key == "train.optim"
    assert next_smaller_setting(QWEN_3_06B, replace(full, shards=True), 0.1) is None


def test_states_and_activations_move_before_documents_are_shortened():
    full = MemorySetting(512, 1, adapter=None, checkpoint_every=1)
    enough = 1.12 * memory_plan(QWEN_3_06B, replace(full, optimizer="adamw_8bit")).total
    found = next_smaller_setting(QWEN_3_06B, full, enough)
    assert (found.key, found.value, found.fits) == ("train.optim", "adamw_8bit", True)
    moved = next_smaller_setting(QWEN_3_06B, replace(full, optimizer="paged_adamw_8bit"), 0.1)
    assert moved.key != "train.optim"
    long = MemorySetting(8192, 1, quantization="4bit", checkpoint_every=1)
    there = memory_plan(QWEN_3_06B, replace(long, offloads=True)).total
    found = next_smaller_setting(QWEN_3_06B, long, there * 1.12)
    assert (found.key, found.value) == ("train.activation_offloading", True)


@pytest.mark.parametrize("budget", [2.5, 8.0])
def test_a_change_that_fits_really_fits(budget):
    change = next_smaller_setting(QWEN_3_06B, SETTING, budget)
    assert change is not None
    assert change.fits == (memory_plan(QWEN_3_06B, change.setting).total * 1.1 <= budget)
