"""The preset `fast`: it resolves, trains on any machine, and computes what the plain settings compute."""

from pathlib import Path

import pytest
from tiny_training import SETTINGS, lines

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.train.kernels.attention import VARLEN
from snaketune.train.run import train
from snaketune.workflow.stages import OPERATIONAL, slice_of

PRESETS = Path(__file__).parents[2] / "config" / "presets"
FILE = {"preset": "fast", "data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}}
SMALL = {"max_steps": 6, "logging_steps": 1, "cpu_threads": 1, "per_device_train_batch_size": 2}


def resolved(**train):
    override = {"adapter": {"r": 4}, "train": {**SMALL, **train}}
    (run,) = resolve_runs(Layer("config/config.yaml", FILE), override, PRESETS)
    return run


def test_it_stands_for_what_it_says():
    (run,) = resolve_runs(Layer("config/config.yaml", FILE), {}, PRESETS)
    flat = {key: entry["value"] for key, entry in run.flat().items() if entry["origin"] == "preset fast"}
    assert flat["tokens.packing"] is True
    assert flat["adapter.lora_dropout"] == 0
    assert flat["adapter.target_modules"] == "all-linear"
    assert flat["train.optim"] == "adamw_torch_fused"
    automatic = ("torch_compile", "gradient_checkpointing", "chunked_loss", "bf16", "tf32")
    assert {flat[f"train.{key}"] for key in automatic} == {"auto"}
    assert flat["train.dataloader_num_workers"] == 0
    assert flat["train.logging_steps"] >= 10


def test_it_trains_on_a_cpu_as_the_plain_settings_do(base, rows, tmp_path):
    run = resolved()
    settings = SETTINGS | {key.partition(".")[2]: _value(run, key) for key in OPERATIONAL if key.startswith("train.")}
    finished = train(base, *rows, slice_of(run.config, "train_model"), settings, tmp_path / "fast")
    engine = finished.info["engine"]
    assert finished.steps == 6
    assert (engine["chunked_loss"], engine["compiled_layers"], engine["checkpoint_every"]) == (True, 0, 0)
    assert (engine["attention"], engine["notes"]) == (VARLEN, ())
    plain = slice_of(resolved(chunked_loss=False).config, "train_model")
    assert train(base, *rows, plain, settings, tmp_path / "plain").info["engine"]["chunked_loss"] is False
    for one, other in zip(lines(tmp_path / "fast"), lines(tmp_path / "plain"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)


def _value(run, key):
    return run.flat()[key]["value"]
