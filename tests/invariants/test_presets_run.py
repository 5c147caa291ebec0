"""Every preset trains: only model, precision and quantisation are replaced by what a CPU has."""

from pathlib import Path

import pytest
from tiny_training import SETTINGS, lines

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.config.stages import OPERATIONAL, slice_of
from snaketune.train.run import train

PRESETS = Path(__file__).parents[2] / "config" / "presets"
NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
ON_A_CPU = {
    "model": {"name_or_path": "tiny", "dtype": "auto", "quantization": "none"},
    "adapter": {"r": 4},
    "train": {"fp16": False, "bf16": "auto", "tf32": "auto", "max_steps": 2, "logging_steps": 1, "cpu_threads": 1},
}


def resolved(preset):
    file = Layer("config/config.yaml", {"preset": preset, "data": {"sources": ["a.jsonl"]}})
    (run,) = resolve_runs(file, ON_A_CPU, PRESETS)
    return run


@pytest.mark.parametrize("preset", NAMES)
def test_a_preset_trains_on_a_cpu(preset, base, rows, tmp_path):
    run = resolved(preset)
    flat = {key: entry["value"] for key, entry in run.flat().items()}
    settings = SETTINGS | {key.partition(".")[2]: flat[key] for key in OPERATIONAL if key.startswith("train.")}
    finished = train(base, *rows, slice_of(run.config, "train_model"), settings, tmp_path)
    assert finished.steps == 2
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)
    wanted = flat["train.gradient_checkpointing"]
    assert (finished.info["engine"]["checkpoint_every"] > 0) == (wanted is True)
    assert (finished.info["engine"]["compiled_layers"] > 0) == (flat["train.torch_compile"] is True)
