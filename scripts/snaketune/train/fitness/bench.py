"""Test bench of the GPU checks: a random model, packed rows of random documents, and trainings as in runs.

It needs torch, transformers, peft, accelerate, pyarrow and orjson, downloads nothing and reads no configuration.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, set_seed

from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import one_per_row, pack
from snaketune.model.adapters.lora import leave_inputs_to_autocast
from snaketune.settings.operational import Operational
from snaketune.settings.training_slices import TrainingSlice
from snaketune.train.arguments import training_arguments
from snaketune.train.determinism import choose_kernels
from snaketune.train.device import Device, check_formats, mixed_dtype
from snaketune.train.engine import RunEstimate, TrainingChoices, prepare_engine
from snaketune.train.hooks import NO_HOOKS, Hooks
from snaketune.train.kernels.float8 import require_float8, use_float8
from snaketune.train.loading.adapting import add_adapter
from snaketune.train.loading.loading import load_base
from snaketune.train.trainer import PackedTrainer, assemble

PAD_ID = 0
PLAIN_LOADER: Operational = {
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": None,
    "dataloader_pin_memory": True,
}
BENCH_SETTINGS = {
    "method": "sft",
    "strategy": "single",
    "num_train_epochs": 1.0,
    "max_steps": 6,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "optim": "adamw_torch_fused",
    "optimizer_in_backward": False,
    "bf16": "auto",
    "fp16": False,
    "tf32": "auto",
    "gradient_checkpointing": False,
    "checkpoint_every_n_layers": 1,
    "activation_offloading": False,
    "use_liger_kernel": "auto",
    "torch_compile": False,
    "chunked_loss": "auto",
    "fp8": False,
    "deterministic": False,
    "eval_steps": 0,
    "seed": 42,
}
BENCH_RANK = 16
ADAPTER = {
    "type": "lora",
    "r": BENCH_RANK,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
    "target_parameters": [],
    "trainable_token_indices": [],
    "modules_to_save": [],
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_rslora": False,
    "use_dora": False,
    "dtype": "auto",
}
MODEL = {"dtype": "auto", "quantization": "none", "attn_implementation": "auto", "trust_remote_code": False}


@dataclass(frozen=True, slots=True)
class Size:
    """The shape of a model and of its rows; tokens, layers, widths."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    row: int
    rows: int

    def config(self) -> LlamaConfig:
        """Return the configuration of a model of this shape."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            max_position_embeddings=self.row,
        )


REDUCED = Size(32, 48, 2, 4, 2, 97, 48, 12)
"""For a CPU: runs every check, without meaning for speed."""
ORDINARY = Size(1024, 2816, 4, 16, 4, 32_000, 2048, 24)
"""Fits an 8 GB card with every method."""


class _Documents:
    """Random documents of few kinds of tokens, which is what can be learned; the second half of each is trained."""

    def __init__(self, size: Size, tokens: int):
        generator = np.random.default_rng(0)
        mean = size.row // 4
        self.lengths = generator.integers(max(mean // 2, 3), 2 * mean, max(tokens // mean, 4)).astype(np.int32)
        self.kinds = size.vocabulary // 8
        self._ids = [generator.integers(1, 1 + self.kinds, n).astype(np.int32) for n in self.lengths]
        self.records, self.seconds = np.arange(len(self.lengths)), np.zeros(len(self.lengths), np.int32)

    def __len__(self) -> int:
        return len(self._ids)

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and mask of a document."""
        ids = self._ids[index]
        return ids, (np.arange(len(ids)) >= len(ids) // 2).astype(np.int8)


class _Pairs(_Documents):
    """Pairs of answers to one prompt, the rejected one of other kinds of tokens."""

    def __init__(self, size: Size, tokens: int):
        super().__init__(size, tokens)
        # The length of a pair counts both answers; the second one starts where the first, with its prompt, ends.
        self.seconds = self.lengths
        self.lengths = 2 * self.lengths

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and mask of a pair; its prompts are the same."""
        ids, mask = super().document(index)
        other = np.where(mask == 0, ids, ids + self.kinds)
        return np.concatenate([ids, other]), np.concatenate([mask, mask])


@dataclass(frozen=True, slots=True)
class Bench:
    """A model of some size on disk and its rows.

    Attributes:
        device: where it is trained.
        size: of the model and its rows.
        folder: of the model.
        rows: packed rows.
        work: folder of the trainings' files.
    """

    device: Device
    size: Size
    folder: Path
    rows: PackedRows
    work: Path

    @classmethod
    def build(cls, device: Device, size: Size, work: Path) -> "Bench":
        """Write the model and the rows into ``work``."""
        folder, path = work / "model", work / "rows.arrow"
        set_seed(1)
        dtype = torch.float32 if device.is_cpu else torch.bfloat16
        model: Any = LlamaForCausalLM(size.config())
        model.to(dtype).save_pretrained(folder)
        documents = _Documents(size, size.row * size.rows)
        write_rows(path, documents, pack(documents.lengths, size.row), size.row, PAD_ID)
        return cls(device, size, folder, PackedRows(path), work)

    def rows_of_pairs(self) -> PackedRows:
        """Return packed rows of pairs, for DPO."""
        pairs, path = _Pairs(self.size, self.size.row * self.size.rows // 2), self.work / "pairs.arrow"
        write_rows(path, pairs, pack(pairs.lengths, self.size.row), self.size.row, PAD_ID)
        return PackedRows(path)

    def rows_of_one(self) -> PackedRows:
        """Return rows of one document each, followed by padding."""
        documents, path = _Documents(self.size, self.size.row * self.size.rows // 4), self.work / "padded.arrow"
        write_rows(path, documents, one_per_row(documents.lengths), self.size.row, PAD_ID)
        return PackedRows(path)

    def configuration(
        self,
        train: Mapping[str, Any] | None = None,
        adapter: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None,
    ) -> TrainingSlice:
        """Return the sections that training gets, with some keys changed."""
        rank = {"r": min(BENCH_RANK, self.size.hidden // 4)}
        found = {
            "train": {**BENCH_SETTINGS, **(train or {})},
            "adapter": {**ADAPTER, **rank, **(adapter or {})},
            "model": {**MODEL, "name_or_path": str(self.folder), **(model or {})},
        }
        return cast(TrainingSlice, found)

    def training(
        self,
        cfg: TrainingSlice,
        name: str,
        hooks: Hooks = NO_HOOKS,
        callbacks=(),
        rows: PackedRows | None = None,
        **settings: Any,
    ) -> tuple[PackedTrainer, TrainingChoices]:
        """Return a trainer of ``cfg``, made in the same order as in a run.

        Args:
            cfg: the sections.
            name: of the folder that it writes into.
            hooks: of the trainer.
            callbacks: of the trainer.
            rows: other rows than the bench's own.
            **settings: further ones of the kind of trainer.
        """
        train, rows = cfg["train"], rows or self.rows
        choose_kernels(train["deterministic"], self.device)
        check_formats(cfg, self.device)
        require_float8(train, self.device)
        set_seed(train["seed"])
        model = add_adapter(load_base(self.folder, cfg, self.device), cfg["adapter"])
        if mixed_dtype(train, self.device):
            leave_inputs_to_autocast(model)
        engine = prepare_engine(model, (rows, rows), cfg, self.device, RunEstimate())
        if train["fp8"]:
            use_float8(model, cfg["adapter"]["type"] == "none", train["fp8"])
        arguments = training_arguments(
            train, PLAIN_LOADER, self.work / name, self.device, False, engine.checkpoint_every
        )
        watchers = (*engine.callbacks, *callbacks)
        trainer = assemble(
            model,
            arguments,
            rows,
            layout=engine.layout,
            hooks=hooks,
            callbacks=watchers,
            steps_in_backward=train["optimizer_in_backward"],
            **settings,
        )
        return trainer, engine


class StepTimes(TrainerCallback):
    """Records the loss of every step and when it ended, after all work of the device.

    Attributes:
        losses: mean loss per trained token of each step, in nats.
        seconds: at the end of each step.
        tokens: real tokens seen until then.
    """

    def __init__(self) -> None:
        self.trainer: Any = None
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.tokens: list[int] = []
        self._sum = 0.0

    def on_step_end(self, args, state, control, **kwargs):
        """Record a step."""
        total = float(self.trainer._tr_loss)  # waits for the device
        self.losses.append(total - self._sum)
        self._sum = total
        self.seconds.append(time.monotonic())
        self.tokens.append(self.trainer.counter.total)

    def rate(self, warm_up: int = 2) -> float:
        """Return real tokens per second after the first steps."""
        first = min(warm_up, len(self.seconds) - 1) - 1
        passed = self.seconds[-1] - self.seconds[first]
        return (self.tokens[-1] - self.tokens[first]) / max(passed, 1e-9)


def copied_weights(model: Any) -> list[torch.Tensor]:
    """Return copies of what was trained, in the host's memory."""
    return [weight.detach().cpu().clone() for weight in model.parameters() if weight.requires_grad]
