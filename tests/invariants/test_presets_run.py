"""Every preset trains: only model, precision and quantisation are replaced by what a CPU has.

Presets of other methods than sft need other rows: test_preference_methods.py and test_grpo.py train theirs.
"""

import multiprocessing

import pytest
from presets import NAMES, is_alone, method_of, prepared
from several_processes import train_together
from tiny_training import lines, write_splits

from snaketune.train.run import train


@pytest.mark.parametrize("preset", [name for name in NAMES if not is_alone(name)])
def test_a_preset_of_several_gpus_trains_in_as_many_processes(preset, base, tmp_path):
    flat, cfg, settings = prepared(preset)
    if flat["train.strategy"] == "deepspeed_zero3":
        pytest.importorskip("deepspeed", reason="DeepSpeed is an extra")
    write_splits(tmp_path)
    train_together(cfg, base, tmp_path, tmp_path / "work", count=flat["plan.num_gpus"], settings=settings)
    assert [line["step"] for line in lines(tmp_path / "work") if "loss" in line] == [1, 2]


# The first compiles, the second trains over 4 bits, which a CPU is slow at.
SLOW = ("h100_optimized", "low_memory")
ALONE = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
    for name in NAMES
    if is_alone(name) and method_of(name) == "sft"
]


@pytest.mark.parametrize("preset", ALONE)
def test_a_preset_trains_on_a_cpu(preset, base, rows, tmp_path):
    flat, cfg, settings = prepared(preset)
    finished = train(base, *rows, cfg, settings, tmp_path)
    assert finished.steps == 2
    assert not multiprocessing.active_children(), "the processes that load rows outlive the training"
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)
    wanted = flat["train.gradient_checkpointing"]
    assert (finished.info["engine"]["checkpoint_every"] > 0) == (wanted is True)
    assert (finished.info["engine"]["compiled_layers"] > 0) == (flat["train.torch_compile"] is True)
