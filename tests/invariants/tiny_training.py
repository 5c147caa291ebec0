"""A training small enough to run many times: a random model of two layers on random documents."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from snaketune.config.schema import AdapterConfig, ModelConfig
from snaketune.config.schema_train import TrainConfig
from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import pack
from snaketune.train.device import prepare_arithmetic
from snaketune.train.monitoring.metrics import VOLATILE_METRICS, read_metrics
from snaketune.train.run import build_trainer

VOCABULARY, ROW = 97, 48
SETTINGS = {
    "save_steps": 4,
    "save_total_limit": 2,
    "hours_between_interruptions": 24.0,
    "max_loss_increase": None,
    "report_to": [],
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": None,
    "dataloader_pin_memory": True,
}


class Documents:
    """A store of random documents, half of each trained."""

    def __init__(self, count: int, seed: int = 0):
        generator = np.random.default_rng(seed)
        self.lengths = generator.integers(4, 40, count).astype(np.int32)
        self._ids = [generator.integers(3, VOCABULARY, n).astype(np.int32) for n in self.lengths]
        self.records = np.arange(count)
        self.seconds = np.zeros(count, np.int32)

    def __len__(self) -> int:
        return len(self._ids)

    def document(self, index: int):
        ids = self._ids[index]
        mask = np.ones(len(ids), np.int8)
        mask[: len(ids) // 2] = 0
        return ids, mask


def write_base(folder: Path) -> Path:
    """Write a random model."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def packed(path: Path, documents: Documents, packer=pack) -> PackedRows:
    """Write packed rows and open them."""
    write_rows(path, documents, packer(documents.lengths, ROW) if packer is pack else packer(documents.lengths), ROW, 0)
    return PackedRows(path)


def write_splits(folder: Path) -> tuple[PackedRows, PackedRows]:
    """Write both splits."""
    return packed(folder / "train.arrow", Documents(60)), packed(folder / "eval.arrow", Documents(9, seed=5))


def configuration(**train_keys):
    """The slice of the configuration that training gets, with other keys of the train section."""
    defaults = {"logging_steps": 1, "learning_rate": 1e-2, "per_device_train_batch_size": 2, "cpu_threads": 1}
    train = TrainConfig(**{**defaults, "gradient_accumulation_steps": 1, "max_steps": 12, **train_keys})
    return {
        "train": train.model_dump(),
        "adapter": AdapterConfig(r=4, lora_alpha=8).model_dump(),
        "model": ModelConfig(name_or_path="tiny").model_dump(),
    }


def digest(finished) -> str:
    """The digest of a finished training's weights."""
    return hashlib.sha256((finished.checkpoint / "adapter_model.safetensors").read_bytes()).hexdigest()


def lines(work: Path) -> list[dict]:
    """The lines of a training's metrics without what is volatile."""
    found = read_metrics(work / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in VOLATILE_METRICS} for line in found]


class StopAt(TrainerCallback):
    """Break off as a crash would: after a step, before its checkpoint."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def break_off(base, rows, cfg, work, at, **settings) -> None:
    """Train up to a step and break off there."""
    trainer = build_trainer(base, *rows, cfg, {**SETTINGS, **settings}, work, prepare_arithmetic(1))
    trainer.add_callback(StopAt(at))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
