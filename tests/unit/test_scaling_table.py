"""The table of memory per GPU in docs/scaling.md holds the plan's own numbers."""

from pathlib import Path

import pytest
from plan_models import LLAMA_2_7B, LLAMA_2_13B, YI_34B, llama

from snaketune.plan.advice.strategies import memory_per_gpu
from snaketune.plan.memory.memory import memory_plan
from snaketune.plan.memory_settings import AdapterSetting, MemorySetting

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
LORA = MemorySetting(2048, adapter=AdapterSetting(16), checkpoint_every=1)
# Trained weights are float32 unless asked otherwise, and compute in bfloat16.
FULL = MemorySetting(2048, adapter=None, weight_dtype="float32", checkpoint_every=1)
MODELS = {"7B": LLAMA_2_7B, "13B": LLAMA_2_13B, "34B": YI_34B, "70B": llama(8192, 28672, 80, 64, 8, 32000)}
RUNS = [*((name, "LoRA", LORA) for name in MODELS), ("7B", "every weight", FULL), ("13B", "every weight", FULL)]
COLUMNS = (
    ("ddp", 1, "none"),
    ("deepspeed_zero2", 8, "none"),
    ("fsdp", 2, "none"),
    ("fsdp", 4, "none"),
    ("fsdp", 8, "none"),
    ("deepspeed_zero3", 8, "cpu"),
)


def row_of(name: str, method: str, setting: MemorySetting) -> str:
    config = MODELS[name]
    plan = memory_plan(config, setting)
    peaks = [
        memory_per_gpu(plan, setting, strategy, gpus, config.num_hidden_layers, offload).total
        for strategy, gpus, offload in COLUMNS
    ]
    return f"| {name}, {method} | " + " | ".join(f"{peak:.0f}" for peak in peaks) + " |"


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run[0]} {run[1]}")
def test_the_page_says_what_the_plan_says(run):
    assert row_of(*run) in PAGE.read_text(encoding="utf-8")
