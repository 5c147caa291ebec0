"""The presets of this version as trainings that a card is checked with: their keys, on the check's model and rows."""

from typing import Any

from snaketune.train.fitness.bench import ADAPTER, TRAIN

# What says how long, on which data and by what loss one trains, and where: the check has its own.
OF_THE_CHECK = (
    *("method", "strategy", "max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_ratio"),
    *("eval_steps", "seed"),
)
MOST_ROWS = 2


def sections_of(preset: dict[str, Any], rank: int) -> dict[str, dict[str, Any]]:
    """Return what a preset says about a training, as the sections that a bench takes.

    Args:
        preset: as its file has it.
        rank: the largest that the check's model can have.
    """
    train = {name: value for name, value in preset.get("train", {}).items() if name in TRAIN}
    train = {name: value for name, value in train.items() if name not in OF_THE_CHECK}
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        train[name] = min(train.get(name, MOST_ROWS), MOST_ROWS)
    adapter = {name: value for name, value in preset.get("adapter", {}).items() if name in ADAPTER}
    adapter["r"] = min(adapter.get("r", rank), rank)
    adapter["lora_alpha"] = 2 * adapter["r"]
    model = {name: value for name, value in preset.get("model", {}).items() if name in ("dtype", "quantization")}
    return {"train": train, "adapter": adapter, "model": model}


def cards_of(preset: dict[str, Any]) -> int:
    """Return how many cards a preset trains on; all but one of its keys are tried on one."""
    return preset.get("plan", {}).get("num_gpus", 1)


def is_packed(preset: dict[str, Any]) -> bool:
    """Tell whether a preset packs documents into rows."""
    return preset.get("tokens", {}).get("packing", True)
