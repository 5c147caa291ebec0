"""A training run from prepared model and packed rows to a finished adapter, resumable at any instant."""

import gc
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import SaveStrategy

from snaketune.common.canonical import digest_of
from snaketune.common.errors import TrainingError
from snaketune.data.rows import PackedRows
from snaketune.train.checkpoints import facts_of, newest_intact
from snaketune.train.device import Device, attention, precision_arguments, prepare_arithmetic
from snaketune.train.loading import add_adapter, compile_layers, load_base
from snaketune.train.metrics import MetricsWriter, TokenCounter
from snaketune.train.trainer import PackedTrainer, RowCollator, RowIndices

VERSIONED = ("torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished training: its last checkpoint and what the run cost."""

    checkpoint: Path
    steps: int
    resumed_from: int | None
    tokens_this_time: int
    device: str


def fingerprint(spec: str, rightsize: dict[str, Any], rows: dict[str, Any]) -> str:
    """Return the identity of a training: configuration, code, data, model and the versions that do arithmetic."""
    return digest_of(
        {"spec": spec, "data": rightsize["fingerprint"], "rows": rows["files"], "versions": versions()}, size=16
    )


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the result."""
    return {name: importlib.metadata.version(name).split("+")[0] for name in VERSIONED}


def train(
    model_folder: Path,
    rows: PackedRows,
    held_out: PackedRows,
    cfg: dict[str, Any],
    settings: dict[str, Any],
    work: Path,
) -> Finished:
    """Train to the end, from the newest intact checkpoint in ``work`` if there is one.

    Args:
        model_folder: the prepared base model.
        rows, held_out: packed rows of both splits.
        cfg: the ``train``, ``adapter`` and ``model`` slices of the configuration.
        settings: operational settings (loader and checkpoint cadence), which never change the result.
        work: private folder of this fingerprint.

    Raises:
        ConfigError: if the configuration does not fit the device or the model.
        TrainingError: if the loss is not finite or training ended early.
    """
    device = prepare_arithmetic(cfg["train"]["cpu_threads"])
    checkpoint = newest_intact(work)
    saved = facts_of(checkpoint) if checkpoint else {}
    if checkpoint and saved["step"] == saved["max_steps"]:
        print(f"Training is already complete in {checkpoint}.", flush=True)
        return Finished(checkpoint, saved["step"], saved["step"], 0, device.type)
    trainer = build_trainer(model_folder, rows, held_out, cfg, settings, work, device)
    if checkpoint:
        trainer.counter.total = saved["tokens"]
        print(f"Resuming from step {saved['step']}.", flush=True)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    state = trainer.state
    if state.global_step != state.max_steps:
        raise TrainingError(
            f"training ended at step {state.global_step} of {state.max_steps}: nothing is published; run the same"
            " command again to go on from the last checkpoint."
        )
    last = work / f"checkpoint-{state.global_step}"
    return Finished(last, state.global_step, saved.get("step"), trainer.counter.since_start, device.type)


def build_trainer(model_folder, rows, held_out, cfg, settings, work, device: Device) -> PackedTrainer:
    """Return the trainer with its model, adapter and callbacks; nothing is trained yet."""
    train_cfg = cfg["train"]
    set_seed(train_cfg["seed"])
    model = add_adapter(load_base(model_folder, cfg["model"], device), cfg["adapter"])
    if train_cfg["gradient_checkpointing"]:
        model.enable_input_require_grads()
    if train_cfg["torch_compile"]:
        print(f"Compiling {compile_layers(model)} layers at the first step.", flush=True)
    counter = TokenCounter()
    varlen = attention(cfg["model"]["attn_implementation"]).startswith("flash")
    trainer = PackedTrainer(
        model=model,
        args=training_arguments(train_cfg, settings, work, device, has_held_out=len(held_out) > 0),
        train_dataset=RowIndices(rows),
        eval_dataset=RowIndices(held_out),
        data_collator=RowCollator(rows, varlen),
        counter=counter,
        save_limit=settings["save_total_limit"],
        held_out=held_out,
        varlen=varlen,
    )
    trainer.pop_callback(_progress_callback(trainer))
    trainer.add_callback(MetricsWriter(work / "metrics.jsonl", counter))
    trainer.add_callback(FreezeGarbage())
    return trainer


def _progress_callback(trainer: PackedTrainer) -> type:
    names = ("PrinterCallback", "ProgressCallback")
    return next(type(callback) for callback in trainer.callback_handler.callbacks if type(callback).__name__ in names)


class FreezeGarbage(TrainerCallback):
    """Keep Python's garbage collector from walking the model's objects during training."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Collect once, then leave what is alive alone."""
        gc.collect()
        gc.freeze()

    def on_train_end(self, args, state, control, **kwargs):
        """Give the objects back to the collector."""
        gc.unfreeze()


def checkpoint_interval(save_steps: int, logging_steps: int) -> int:
    """Return the steps between checkpoints: a multiple of the log interval.

    The running loss of an unfinished interval is not part of a checkpoint, so that a resumed run would log
    another loss than an undisturbed one if it started in the middle of an interval.
    """
    return -(-save_steps // logging_steps) * logging_steps


def training_arguments(
    train: dict[str, Any], settings: dict[str, Any], work: Path, device: Device, has_held_out: bool
) -> TrainingArguments:
    """Return Hugging Face's arguments for the ``train`` section and the operational settings."""
    evaluates = train["eval_steps"] > 0 and has_held_out
    workers = settings["dataloader_num_workers"]
    same_names = (
        "max_steps",
        "num_train_epochs",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "lr_scheduler_type",
        "weight_decay",
        "max_grad_norm",
        "optim",
        "logging_steps",
        "seed",
    )
    return TrainingArguments(
        output_dir=str(work),
        **{name: train[name] for name in same_names},
        **precision_arguments(train, device),
        data_seed=train["seed"],
        warmup_steps=train["warmup_ratio"],
        activation_checkpointing=train["gradient_checkpointing"],
        per_device_eval_batch_size=train["per_device_train_batch_size"],
        eval_strategy="steps" if evaluates else "no",
        eval_steps=train["eval_steps"] if evaluates else None,
        save_strategy=SaveStrategy.STEPS,
        save_steps=checkpoint_interval(settings["save_steps"], train["logging_steps"]),
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=settings["dataloader_prefetch_factor"] if workers else None,
        dataloader_pin_memory=settings["dataloader_pin_memory"] and not device.is_cpu,
        dataloader_persistent_workers=workers > 0,
        remove_unused_columns=False,
        label_names=["labels"],
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="no",
        report_to="none",
        disable_tqdm=True,
    )
