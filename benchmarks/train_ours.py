"""The snaketune case of `benchmarks/train.py`: packed rows and the pieces that `preset: fast` puts together.

It composes the library's own functions as a run does, without the parts that a bare machine lacks (reading the
configuration, writing checkpoints and metrics).
"""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_cases import Built, Case, arguments, build_model, in_groups
from train_workload import PAD, Corpus, Workload, model_config
from transformers import TrainingArguments

from snaketune.data.rows.packed_rows import PackedRows, write_rows
from snaketune.data.rows.packing import pack
from snaketune.train.batches import arrange
from snaketune.train.device import Device
from snaketune.train.engine import RunEstimate, TrainingChoices, prepare_engine
from snaketune.train.kernels.activations import checkpointing_arguments
from snaketune.train.kernels.attention import training_attention
from snaketune.train.trainer import assemble


def packed_rows(case: Case, workload: Workload, corpus: Corpus, device: Device, folder: Path) -> Built:
    """Build the trainer over packed rows; options switch its pieces on and off one by one."""
    rows = PackedRows(_written(workload, corpus, folder / "train.arrow"))
    settings = _settings(case, device)
    dtype = torch.bfloat16 if device.has_bf16 else torch.float32
    model_config(workload).save_pretrained(folder)
    model = build_model(
        workload, device, training_attention(case.options.get("attention", "auto"), device, dtype, folder)
    )
    engine = prepare_engine(model, (rows, rows), settings, device, RunEstimate())
    size, accumulation = settings["train"]["per_device_train_batch_size"], case.number("accumulation", 1)
    trainer = _trainer(model, rows, engine, workload, device, folder, size, accumulation)
    documents = [[document.length for document in rows.documents(row)] for row in range(len(rows))]
    batches = [[length for row in group for length in row] for group in in_groups(documents, size)]
    groups = in_groups(list(range(len(rows))), size)
    slots = [arrange(rows, group, engine.layout)["input_ids"].numel() for group in groups]
    return Built(trainer, batches, slots)


def _written(workload: Workload, corpus: Corpus, path: Path) -> Path:
    plan = pack(corpus.lengths, workload.row_length)
    order = np.random.default_rng(workload.seed).permutation(len(plan))
    write_rows(path, corpus, [plan[row] for row in order.tolist()], workload.row_length, PAD)
    return path


def _settings(case: Case, device: Device) -> dict[str, Any]:
    every = case.number("checkpoint", 0)
    train = {
        "method": "sft",
        "strategy": "single",
        "per_device_train_batch_size": case.number("rows", 2),
        "gradient_checkpointing": every > 0,
        "activation_offloading": False,
        "use_liger_kernel": False,
        "keeps_padding": case.flag("padding", False),
        "keeps_prefixes": not case.flag("shared", True),
        "checkpoint_every_n_layers": every,
        "chunked_loss": case.flag("chunked", True),
        # What auto decides for a run of more than ten minutes; the window shows its steady state.
        "torch_compile": case.flag("compile", not device.is_cpu),
        "fp8": False,
        "bf16": "auto",
        "fp16": False,
        "tf32": "auto",
    }
    return {"train": train, "adapter": {"lora_dropout": 0.0}, "model": {}}


def _trainer(
    model, rows, engine: TrainingChoices, workload: Workload, device: Device, folder: Path, size: int, accumulation: int
):
    settings = arguments(
        workload,
        device,
        folder,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        optim="adamw_torch_fused",
        remove_unused_columns=False,
        label_names=["labels"],
        logging_steps=10,
        logging_nan_inf_filter=False,
        dataloader_pin_memory=not device.is_cpu,
        tf32=device.has_tf32 or None,
        **checkpointing_arguments(engine.checkpoint_every),
    )
    trainer = assemble(model, TrainingArguments(**settings), rows, layout=engine.layout, callbacks=engine.callbacks)
    # As a run does: the garbage collector need not walk the model's objects at every step.
    gc.collect()
    gc.freeze()
    return trainer
