"""The ``train`` section of the configuration as arguments of Hugging Face's Trainer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from transformers import TrainingArguments

from snaketune.settings.operational import Operational
from snaketune.settings.train_section import TrainSection
from snaketune.train.device import Device, precision_arguments
from snaketune.train.kernels.activations import checkpointing_arguments

SAME_NAMES = (
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "seed",
)


def training_arguments(
    train: TrainSection,
    settings: Operational,
    work: Path,
    device: Device,
    has_held_out: bool,
    checkpoint_every: int = 0,
    kind: Callable[..., TrainingArguments] = TrainingArguments,
    **more: Any,
) -> TrainingArguments:
    """Return Hugging Face's arguments.

    Saving and logging are scheduled by :mod:`snaketune.train.checkpoints.checkpoint_schedule`.

    Args:
        train: the ``train`` section.
        settings: operational settings: ``dataloader_num_workers``, ``_prefetch_factor`` and ``_pin_memory``.
        work: private folder of the run.
        device: where the run computes.
        has_held_out: whether there is anything to evaluate on.
        checkpoint_every: activations of one in this many layers are recomputed; 0 recomputes none.
        kind: class of the result.
        more: further arguments of ``TrainingArguments``, which take precedence.
    """
    evaluates = train["eval_steps"] > 0 and has_held_out
    workers = settings["dataloader_num_workers"]
    same = cast(Mapping[str, Any], train)
    values = {
        **{name: same[name] for name in SAME_NAMES},
        **precision_arguments(train, device),
        **checkpointing_arguments(checkpoint_every),
        "data_seed": train["seed"],
        "warmup_steps": train["warmup_ratio"],
        "per_device_eval_batch_size": train["per_device_train_batch_size"],
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": train["eval_steps"] if evaluates else None,
        "save_strategy": "no",
        "logging_strategy": "no",
        "dataloader_num_workers": workers,
        "dataloader_prefetch_factor": settings["dataloader_prefetch_factor"] if workers else None,
        "dataloader_pin_memory": settings["dataloader_pin_memory"] and not device.is_cpu,
        # A blocking copy waits for all queued work; six of them per micro-batch leave the GPU idle in between.
        "accelerator_config": {"non_blocking": not device.is_cpu, **more.pop("accelerator_config", {})},
        "dataloader_persistent_workers": workers > 0,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return on_one_device(kind(output_dir=str(work), **{**values, **more}))


def on_one_device(arguments: TrainingArguments) -> TrainingArguments:
    """Restrict a process to one GPU, however many it sees.

    transformers would wrap the model in ``nn.DataParallel``, which changes the batch size and scatters the document
    boundaries over the GPUs as if they were rows.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments
