"""Short trainings of the GPU check: each method, each preset, and preference pairs; their loss has to fall."""

import importlib.util
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from snaketune.train.fitness.bench import ADAPTER, BENCH_SETTINGS, Bench, StepTimes
from snaketune.train.packages import OPTIMIZERS
from snaketune.train.preference.dpo import PreferenceLoss
from snaketune.train.preference.dpo_trainer import PreferenceTrainer
from snaketune.train.trainer import PackedTrainer

# What says how long, on which data and by what loss one trains, and where: the check has its own.
OF_THE_CHECK = (
    *("method", "strategy", "max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_ratio"),
    *("eval_steps", "seed"),
)
MOST_TRIAL_ROWS = 2

# Tolerance of DPO's first loss against log 2, for rounding to 16 bits.
NEAR_LOG_2 = 2e-2
# Presets whose models are an example's own.
EXAMPLE_MODEL_PRESETS = ("quickstart", "smollm2")


class NotHereError(Exception):
    """A check does not apply to this machine, or a package is missing; the text says which."""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The result of a check: a sentence, and figures with their units in their names."""

    said: str
    figures: dict[str, Any] = field(default_factory=dict)


def need_card(bench: Bench) -> None:
    """Raise NotHereError without a GPU."""
    if bench.device.is_cpu:
        raise NotHereError("needs a GPU")


METHOD_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "LoRA": {},
    "LoRA, activations recomputed": {"train": {"gradient_checkpointing": True}},
    "LoRA, layers compiled": {"train": {"torch_compile": True}},
    "LoRA, logits kept": {"train": {"chunked_loss": False}},
    "LoRA, float32": {"train": {"bf16": False, "tf32": False}, "model": {"dtype": "float32"}},
    "LoRA, float16": {"train": {"fp16": True}},
    "LoRA, bfloat16 adapter": {"adapter": {"dtype": "bfloat16"}},
    "DoRA": {"adapter": {"use_dora": True}},
    "rsLoRA": {"adapter": {"use_rslora": True}},
    "all weights": {"adapter": {"type": "none"}},
    "4-bit base": {"model": {"quantization": "4bit"}},
    "8-bit base": {"model": {"quantization": "8bit"}},
    "float8 base": {"train": {"fp8": True, "torch_compile": True}},
    "activations in RAM": {"train": {"activation_offloading": True}},
    "all weights, 8-bit states": {"adapter": {"type": "none"}, "train": {"optim": "adamw_8bit"}},
    "all weights, paged states": {"adapter": {"type": "none"}, "train": {"optim": "paged_adamw_8bit"}},
    "all weights, steps in backward": {
        "adapter": {"type": "none"},
        "train": {"optimizer_in_backward": True, "max_grad_norm": 0.0},
    },
    "kernels of liger-kernel": {"train": {"use_liger_kernel": True}},
}


def try_method(bench: Bench, name: str) -> TrialResult:
    """Train a few steps; the loss has to fall."""
    return _try(bench, METHOD_SETTINGS[name])


def try_preset(bench: Bench, preset: dict[str, Any]) -> TrialResult:
    """Train a few steps with the settings of a preset."""
    rows = None if packs_documents(preset) else bench.rows_of_one()
    seen = _try(bench, sections_of(preset, bench.configuration()["adapter"]["r"]), rows=rows)
    cards = cards_of(preset)
    return seen if cards == 1 else replace(seen, said=f"{seen.said}; on one card, where the preset has {cards}")


def try_pairs(bench: Bench) -> TrialResult:
    """Train with DPO; before the first step the policy is its own reference, whose loss is log 2."""
    sections = {"train": {"method": "dpo"}}
    loss = PreferenceLoss(beta=0.1, loss_type="sigmoid", label_smoothing=0.0)
    seen = _try(bench, sections, rows=bench.rows_of_pairs(), kind=PreferenceTrainer, loss=loss)
    first = seen.figures["losses"][0]
    if abs(first - math.log(2)) > NEAR_LOG_2:
        raise AssertionError(f"the first loss is {first:.4f} instead of log 2: reference and policy differ")
    return seen


def _try(bench: Bench, sections: dict[str, dict[str, Any]], **given: Any) -> TrialResult:
    _need_what_it_needs(bench, sections)
    watch = StepTimes()
    trainer, engine = bench.training(bench.configuration(**sections), "method", callbacks=(watch,), **given)
    watch.trainer = trainer
    before = _loss(trainer)
    trainer.train()
    after = _loss(trainer)
    if not after < before:
        raise AssertionError(f"the loss did not fall: {before:.4f} to {after:.4f} nats")
    rate = watch.rate()
    again = engine.facts()["compiled_again"]
    if again:
        raise AssertionError(f"layers were recompiled {again} times after the first steps")
    losses = [round(loss, 5) for loss in (before, after)]
    figures = {"tokens_per_second": round(rate), "losses": losses}
    return TrialResult(f"loss {before:.4f} to {after:.4f} nats, {rate:,.0f} tokens/s", figures)


def _loss(trainer: PackedTrainer) -> float:
    """Return the loss on all rows, which unlike that of a step does not depend on the order of rows."""
    # Graphs of its own would take longer than the loss; before training nothing has wrapped the model in autocast.
    with torch.compiler.set_stance("force_eager"), trainer.accelerator.autocast():
        return trainer.held_out_measures()["eval_loss"]


OF_A_CARD = ("torch_compile", "fp16", "fp8", "activation_offloading", "use_liger_kernel")


def _need_what_it_needs(bench: Bench, sections: dict[str, dict[str, Any]]) -> None:
    train, model, adapter = (sections.get(name, {}) for name in ("train", "model", "adapter"))
    if any(train.get(name, "auto") not in (False, "auto") for name in OF_A_CARD):
        need_card(bench)
    if adapter.get("dtype") == "bfloat16" and not bench.device.is_cpu and not bench.device.has_bf16:
        raise NotHereError("needs a GPU with bfloat16")
    if train.get("optimizer_in_backward") and not bench.device.is_cpu and not bench.device.has_bf16:
        raise NotHereError("needs a GPU with bfloat16: scaled gradients are checked before a step")
    if train.get("tf32") is True and not bench.device.has_tf32:
        raise NotHereError("needs a GPU with TF32 (Ampere or newer)")
    packages = [
        ("bitsandbytes", model.get("quantization", "none") != "none"),
        ("torchao", train.get("fp8")),
        ("liger_kernel", train.get("use_liger_kernel") is True),
        (OPTIMIZERS.get(train.get("optim", ""), ""), train.get("optim") in OPTIMIZERS),
    ]
    missing = [name for name, wanted in packages if wanted and importlib.util.find_spec(name) is None]
    if missing:
        raise NotHereError(f"needs the package {missing[0]}, which is not installed")
    if train.get("fp8") and torch.cuda.get_device_capability() < (8, 9):
        raise NotHereError("needs a GPU with float8 (Ada, Hopper or newer)")


def sections_of(preset: dict[str, Any], rank: int) -> dict[str, dict[str, Any]]:
    """Return the settings of a preset for training, as the sections that a bench takes.

    Args:
        preset: the content of its file.
        rank: the largest that the check's model can have.
    """
    train = {name: value for name, value in preset.get("train", {}).items() if name in BENCH_SETTINGS}
    train = {name: value for name, value in train.items() if name not in OF_THE_CHECK}
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        train[name] = min(train.get(name, MOST_TRIAL_ROWS), MOST_TRIAL_ROWS)
    adapter = {name: value for name, value in preset.get("adapter", {}).items() if name in ADAPTER}
    adapter["r"] = min(adapter.get("r", rank), rank)
    adapter["lora_alpha"] = 2 * adapter["r"]
    model = {name: value for name, value in preset.get("model", {}).items() if name in ("dtype", "quantization")}
    return {"train": train, "adapter": adapter, "model": model}


def cards_of(preset: dict[str, Any]) -> int:
    """Return how many GPUs a preset trains on; all but one of its keys are tried on one."""
    return preset.get("plan", {}).get("num_gpus", 1)


def packs_documents(preset: dict[str, Any]) -> bool:
    """Tell whether a preset packs documents into rows."""
    return preset.get("tokens", {}).get("packing", True)
