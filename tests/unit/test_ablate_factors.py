"""What differs between two cases: one factor, and nothing that would make them different trainings."""

from dataclasses import asdict, replace

import pytest
from ablate_case import HERE, SECTIONS

from snaketune.ablate.case_settings import configured, loading, setting_in_words
from snaketune.ablate.factors import (
    BF16,
    COMPILING,
    FACTOR_NAMES,
    FACTORS,
    FP8,
    LIGER,
    MICRO_BATCH_FACTOR,
    OFFLOADING,
    OPTIMIZER,
    PACKING_FACTOR,
    PREFIXES,
    QUANTISATION,
    RANK_FACTOR,
    RIGHT_SIZING,
    TF32,
    fast_end,
    obstacle,
    pairs_of,
    slow_end,
)

GPU = replace(HERE, is_cpu=False, has_bf16=True, device="H100 SXM")


def differences(one, other):
    before, after = asdict(one), asdict(other)
    return {name for name in before if before[name] != after[name]}


def shown(here):
    return tuple(factor for factor in FACTORS if not obstacle(factor, here))


@pytest.mark.parametrize("here", [HERE, GPU], ids=["CPU", "GPU"])
def test_the_two_settings_of_a_pair_differ_in_their_factor_alone(here):
    slow, fast, pairs = pairs_of(here, shown(here))
    for pair in pairs:
        assert differences(pair.off, pair.on) == set(pair.factor.fields), pair
    assert {pair.off for pair in pairs if pair.where == "baseline"} == {slow}
    assert {pair.on for pair in pairs if pair.where == "fast"} == {fast}
    assert all(fast in (pair.off, pair.on) for pair in pairs if pair.where == "beside")


def test_the_ends_differ_in_what_is_shown_and_in_nothing_else():
    slow, fast, _ = pairs_of(HERE, (PACKING_FACTOR,))
    assert differences(slow, fast) == {"packing"}
    assert slow == replace(fast_end(HERE), packing=False)
    whole, _, _ = pairs_of(GPU, shown(GPU))
    assert whole == slow_end(GPU)


def test_a_cpu_shows_neither_tf32_nor_bfloat16_and_says_why():
    assert "Ampere" in obstacle(TF32, HERE)
    assert "slower than float32" in obstacle(BF16, HERE)
    assert obstacle(TF32, GPU) == obstacle(BF16, GPU) == ""
    assert obstacle(BF16, replace(GPU, has_bf16=False, device="T4")) == "T4 has neither TF32 nor bfloat16"


@pytest.mark.parametrize(
    ("factor", "changes", "words_of_it"),
    [
        (RIGHT_SIZING, {"long_length": 64}, "no longer rows than the data need"),
        (MICRO_BATCH_FACTOR, {"own_places": 128}, "per_device_train_batch_size"),
        (COMPILING, {"has_compiler": False}, "C++ compiler"),
        (RANK_FACTOR, {"rank": 0}, "no rank"),
        (QUANTISATION, {"has_bitsandbytes": False}, "bitsandbytes is not installed"),
        (QUANTISATION, {"rank": 0}, "all weights are trained"),
    ],
)
def test_what_cannot_be_shown_has_its_reason(factor, changes, words_of_it):
    assert obstacle(factor, HERE) == ""
    assert words_of_it in obstacle(factor, replace(HERE, **changes))


@pytest.mark.parametrize("factor", [LIGER, OPTIMIZER, OFFLOADING, FP8], ids=lambda factor: factor.name)
def test_what_is_for_gpus_is_shown_on_a_gpu_beside_the_fast_end(factor):
    assert obstacle(factor, HERE) and not obstacle(factor, GPU)
    slow, fast, pairs = pairs_of(GPU, (factor,))
    (pair,) = pairs
    assert pair.where == "beside" and fast in (pair.off, pair.on)
    assert differences(slow, fast) == differences(*pairs_of(GPU, ())[:2])  # the ends are what they are without it


def test_shared_prefixes_are_shown_on_a_cpu_and_no_other_case_shares_them():
    assert "on a CPU only" in obstacle(PREFIXES, GPU)
    slow, fast, pairs = pairs_of(HERE, shown(HERE))
    assert [pair.factor for pair in pairs if pair.on.shares or pair.off.shares] == [PREFIXES]
    (pair,) = [pair for pair in pairs if pair.factor == PREFIXES]
    assert pair.off == fast
    found = [configured(SECTIONS, setting, 50, 480, 1)["train"]["keeps_prefixes"] for setting in (slow, fast, pair.on)]
    assert found == [True, True, False]


@pytest.mark.parametrize(
    ("factor", "changes", "reason"),
    [
        (LIGER, {"has_liger": False}, "pip install -r envs/extras/liger.txt"),
        (OPTIMIZER, {"has_bitsandbytes": False}, "pip install -r envs/extras/quantization.txt"),
        (FP8, {"has_torchao": False}, "pip install -r envs/extras/float8.txt"),
        (FP8, {"quantization": "4bit"}, "layers that are not quantised"),
        (QUANTISATION, {"fp8": True}, "train.fp8 is on"),
    ],
)
def test_what_is_missing_on_a_gpu_is_named(factor, changes, reason):
    assert reason in obstacle(factor, replace(GPU, **changes))


def test_the_run_itself_is_one_side_of_what_is_measured_beside():
    own = replace(GPU, optim="paged_adamw_8bit", offloads=True, fp8="rowwise")
    _, fast, pairs = pairs_of(own, (OPTIMIZER, OFFLOADING, FP8))
    assert {pair.on for pair in pairs} == {fast}
    assert [getattr(pair.off, pair.factor.fields[0]) for pair in pairs] == ["adamw_torch_fused", False, False]
    train = configured(SECTIONS, fast, 50, 480, 1)["train"]
    kept = ("optim", "activation_offloading", "fp8", "use_liger_kernel")
    assert [train[name] for name in kept] == ["paged_adamw_8bit", True, "rowwise", False]


def test_as_many_places_go_through_the_model_at_once_whatever_the_length():
    slow, fast, pairs = pairs_of(HERE, shown(HERE))
    sized = next(pair for pair in pairs if pair.factor == RIGHT_SIZING and pair.where == "baseline")
    assert sized.off.rows * sized.off.row_length == sized.on.rows * sized.on.row_length == 128
    assert (slow.rows, fast.rows) == (1, 8)


@pytest.mark.parametrize("tokens_per_row", [26.0, 55.0, 119.0])
def test_every_case_sees_about_as_many_real_tokens_per_optimizer_step(tokens_per_row):
    for setting in (slow_end(HERE), fast_end(HERE)):
        train = configured(SECTIONS, setting, tokens_per_row, 480.0, seed=7)["train"]
        per_pass = train["per_device_train_batch_size"] * tokens_per_row
        assert abs(train["gradient_accumulation_steps"] * per_pass - 480) <= max(per_pass / 2, 480 * 0.99)
        assert train["seed"] == 7


def test_another_rank_keeps_the_scale_and_starts_anew():
    setting = replace(fast_end(HERE), rank=64)
    adapter = configured({**SECTIONS, "adapter": SECTIONS["adapter"] | {"init_from": "run:a"}}, setting, 50, 480, 1)[
        "adapter"
    ]
    assert (adapter["r"], adapter["lora_alpha"]) == (64, 128)
    assert "init_from" not in adapter


def test_without_bfloat16_everything_is_float32():
    assert configured(SECTIONS, slow_end(GPU), 26, 480, 1)["model"]["dtype"] == "float32"
    stepped = SECTIONS | {"train": SECTIONS["train"] | {"optimizer_in_backward": True}}
    assert configured(stepped, slow_end(GPU), 26, 480, 1)["train"]["optimizer_in_backward"] is False
    fast = configured(SECTIONS, fast_end(GPU), 26, 480, 1)
    assert (fast["model"]["dtype"], fast["train"]["bf16"]) == ("auto", True)


def test_loader_processes_come_with_prefetching_and_pinned_memory():
    setting = fast_end(HERE)
    assert loading({}, setting)["dataloader_prefetch_factor"] is None
    with_some = loading({}, replace(setting, workers=4))
    assert (with_some["dataloader_num_workers"], with_some["dataloader_pin_memory"]) == (4, True)


def test_every_factor_has_words_for_both_sides():
    for pair in pairs_of(GPU, shown(GPU))[2] + pairs_of(HERE, shown(HERE))[2]:
        assert setting_in_words(pair.factor, pair.off) != setting_in_words(pair.factor, pair.on)
    assert len(set(FACTOR_NAMES)) == len(FACTORS) == 18
