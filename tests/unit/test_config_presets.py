"""Every preset resolves to the values of its guide."""

from pathlib import Path

import pytest

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError

PRESETS = Path(__file__).parents[2] / "config" / "presets"
NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
NAMING_A_MODEL = ("original_34b", "optimized_13b", "quickstart", "smollm2", "orpo", "kto", "reward")
OWN = {"data": {"sources": ["data.jsonl"]}, "model": {"name_or_path": "org/model"}}
# What the guides state: batch, accumulation, and whatever else they name.
STATED = {
    "baseline": {
        "train": (1, 16),
        "train.fp16": False,
        "train.learning_rate": 2e-4,
        "train.gradient_checkpointing": True,
    },
    "optimized": {"train": (1, 32), "train.fp16": True, "train.learning_rate": 2.5e-4, "train.num_train_epochs": 1},
    "aggressive": {
        "train": (1, 64),
        "train.fp16": True,
        "train.learning_rate": 3e-4,
        "train.gradient_checkpointing": True,
    },
    "original_34b": {
        "train.per_device_train_batch_size": 1,
        "model.quantization": "4bit",
        "train.num_train_epochs": 3,
        "tokens.max_length": 1024,
        "adapter.r": 64,
        "train.eval_steps": 50,
        "model.name_or_path": "chargoddard/Yi-34B-200K-Llama",
    },
    "optimized_13b": {
        "train.per_device_train_batch_size": 2,
        "model.quantization": "8bit",
        "train.num_train_epochs": 1,
        "tokens.max_length": 512,
        "adapter.r": 32,
        "train.eval_steps": 100,
    },
    "phase1c_before": {
        "train": (2, 8),
        "tokens.max_length": 2048,
        "train.tf32": False,
        "train.dataloader_num_workers": 0,
        "train.gradient_checkpointing": False,
        "train.optim": "adamw_torch",
        "train.save_steps": 100,
    },
    "phase1c_after": {
        "train": (2, 4),
        "tokens.max_length": "auto",
        "train.tf32": True,
        "train.dataloader_num_workers": 4,
        "train.dataloader_pin_memory": True,
        "train.dataloader_prefetch_factor": 4,
        "train.gradient_checkpointing": True,
    },
    "h100_current": {"train": (2, 8), "train.dataloader_num_workers": 8, "train.save_steps": 1000},
    "h100_optimized": {
        "train": (4, 2),
        "train.dataloader_num_workers": 4,
        "train.save_steps": 2000,
        "train.torch_compile": True,
        "paths.scratch": "auto",
    },
    "zero3_4xa100": {"train.strategy": "deepspeed_zero3", "plan.num_gpus": 4},
    "fsdp_2xh100": {"train.strategy": "fsdp", "plan.num_gpus": 2},
    "low_memory": {"model.quantization": "4bit", "train.per_device_train_batch_size": 1},
    "fast": {"tokens.packing": True, "adapter.lora_dropout": 0.0, "adapter.target_modules": "all-linear"},
    "quickstart": {"model.name_or_path": "tiny"},
    "grpo_math": {"train.method": "grpo", "train.grpo.rewards": ["numeric_match"], "train.grpo.num_generations": 8},
    "grpo": {"train.method": "grpo", "train.max_steps": 100, "train.grpo.rewards": ["exact_match"]},
    "orpo": {"model.name_or_path": "tiny", "train.method": "orpo"},
    "kto": {"model.name_or_path": "tiny", "train.method": "kto"},
    "reward": {"model.name_or_path": "tiny", "train.method": "reward"},
    "smollm2": {"model.name_or_path": "smollm2", "train.learning_rate": 2e-3, "train.max_steps": 60},
}


def resolved(preset, **overrides):
    return resolve_runs(Layer("config.yaml", {**without(preset, OWN), "preset": preset}), overrides, PRESETS)[0]


def without(preset, own):
    """A guide that names its model keeps it."""
    return {"data": own["data"]} if preset in NAMING_A_MODEL else own


def test_every_preset_is_listed_here():
    assert sorted(STATED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_has_the_values_of_its_guide(name):
    flat = {key: entry["value"] for key, entry in resolved(name).flat().items()}
    stated = dict(STATED[name])
    if "train" in stated:
        batch, accumulation = stated.pop("train")
        stated |= {"train.per_device_train_batch_size": batch, "train.gradient_accumulation_steps": accumulation}
    assert {key: flat[key] for key in stated} == stated


@pytest.mark.parametrize("name", NAMES)
def test_a_value_says_that_it_comes_from_the_preset(name):
    origins = {entry["origin"] for entry in resolved(name).flat().values()}
    assert f"preset {name}" in origins


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_says_in_one_line_what_it_is(name):
    first = (PRESETS / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ") and first.endswith(".") and len(first) < 140
    assert f"`{name}`" in (PRESETS.parents[1] / "docs" / "presets.md").read_text()


def test_runs_of_a_preset_replace_runs_without_keys_and_no_others():
    def runs(values, **command_line):
        found = resolve_runs(Layer("config.yaml", values), command_line, PRESETS)
        return {run.name: run for run in found}

    for given in ({"preset": "grpo"}, {"preset": "grpo", "runs": {"quickstart": {}}}):
        found = runs(given)
        assert sorted(found) == ["grpo", "short"]
        assert found["grpo"].origins["train.max_steps"] == "runs.grpo in preset grpo"
        assert found["short"].config.train.max_steps == 12
    assert sorted(runs({"preset": "quickstart", "runs": {"quickstart": None}}, preset="grpo")) == ["grpo", "short"]
    changed = runs({"preset": "grpo", "runs": {"grpo": {"train": {"seed": 1}}, "quickstart": {}}})
    assert (changed["grpo"].config.train.seed, changed["short"].config.train.seed) == (1, 42)
    with pytest.raises(ConfigError, match="has the runs grpo, short and no run own"):
        runs({"preset": "grpo", "runs": {"own": {"train": {"seed": 1}}}})
