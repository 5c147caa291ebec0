"""The presets as a CPU trains them: only model, precision and quantisation are replaced."""

from pathlib import Path

from tiny_training import SETTINGS

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.workflow.stages import OPERATIONAL, slice_of

PRESETS = Path(__file__).parents[2] / "config" / "presets"
NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
ON_A_CPU = {
    "model": {"name_or_path": "tiny", "dtype": "auto", "quantization": "none"},
    "adapter": {"r": 4},
    "train": {"fp16": False, "bf16": "auto", "tf32": "auto", "max_steps": 2, "logging_steps": 1, "cpu_threads": 1},
}


def resolved(preset):
    file = Layer("config/config.yaml", {"preset": preset, "data": {"sources": ["a.jsonl"]}})
    return resolve_runs(file, ON_A_CPU, PRESETS)[0]


def is_alone(preset):
    return resolved(preset).config.train.strategy == "single"


def prepared(preset):
    """All values of a preset, the slice of training and its operational settings."""
    run = resolved(preset)
    flat = {key: entry["value"] for key, entry in run.flat().items()}
    settings = SETTINGS | {key.partition(".")[2]: flat[key] for key in OPERATIONAL if key.startswith("train.")}
    return flat, slice_of(run.config, "train_model"), settings


def method_of(preset):
    return resolved(preset).config.train.method
