"""The checks of a GPU, one function each: a result, or an error that says what is wrong."""

import functools
import gc
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from snaketune.plan.advice.preset_files import read_presets
from snaketune.plan.flops import model_flops, shape_of
from snaketune.plan.memory.memory import memory_plan
from snaketune.plan.memory_settings import setting_of
from snaketune.train.batches import arrange
from snaketune.train.device import computing_dtype, has_usable_card, mixed_dtype, mixed_precision, name_of_device
from snaketune.train.fitness.bench import Bench, StepTimes, copied_weights
from snaketune.train.fitness.trials import (
    EXAMPLE_MODEL_PRESETS,
    METHOD_SETTINGS,
    TrialResult,
    need_card,
    try_method,
    try_pairs,
    try_preset,
)
from snaketune.train.hooks import Hooks
from snaketune.train.kernels.attention import check_isolation, training_attention
from snaketune.train.kernels.chunked_cross_entropy import put_chunked_loss
from snaketune.train.monitoring.step_timers import forget_peak_memory
from snaketune.train.out_of_memory import memory_gigabytes

# Tolerance of losses and gradients that are summed in another order.
NEAR_FLOAT32, NEAR_HALF = 1e-4, 2e-2
PLAN_TOLERANCE = 0.1
# A layer of an 8B model and what a share of the measured peak its training should reach on a fit card.
LAYER_8B = {"hidden": 4096, "inner": 14336, "heads": 32, "key_heads": 8, "vocabulary": 32_000}


def name_card(bench: Bench) -> TrialResult:
    """Name the GPU and the packages."""
    gigabytes = memory_gigabytes(bench.device)
    facts = {
        "memory_gb": round(gigabytes, 1),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "capability": None if bench.device.is_cpu else list(torch.cuda.get_device_capability()),
        "bfloat16": bench.device.has_bf16,
        "tf32": bench.device.has_tf32,
    }
    return TrialResult(f"{name_of_device(bench.device)}, {gigabytes:.1f} GB, torch {torch.__version__}", facts)


def choose_attention(bench: Bench) -> TrialResult:
    """Name the attention kernel that a run gets."""
    dtype = computing_dtype(bench.configuration(), bench.device)
    kernel = training_attention("auto", bench.device, dtype, bench.folder)
    why = "documents are separated by " + ("a mask" if kernel in ("sdpa", "eager") else "their boundaries")
    return TrialResult(f"{kernel} in {str(dtype).removeprefix('torch.')}: {why}", {"attention": kernel})


def documents_stay_apart(bench: Bench) -> TrialResult:
    """Compare documents alone and after another one, with the kernel and the precision of training."""
    cfg = bench.configuration()
    trainer, engine = bench.training(cfg, "apart")
    model: Any = trainer.model
    with mixed_precision(model, mixed_dtype(cfg["train"], bench.device)):
        check_isolation(model)
    return TrialResult(f"a document gives the same logits alone and after another one with {engine.attention}")


def chunked_loss_is_the_loss(bench: Bench) -> TrialResult:
    """Compare loss and gradients of the chunked loss with those of whole logits."""
    found = []
    for chunked in (False, True):
        cfg = bench.configuration({"chunked_loss": False})
        trainer, engine = bench.training(cfg, "loss")
        model: Any = trainer.model
        if chunked:
            put_chunked_loss(model)
        batch = trainer._prepare_inputs(arrange(bench.rows, [0, 1], engine.layout))
        with mixed_precision(model, mixed_dtype(cfg["train"], bench.device)):
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        gradients = [weight.grad.flatten().float() for weight in model.parameters() if weight.grad is not None]
        found.append((float(loss.detach()), torch.cat(gradients)))
    (whole, expected), (loss, gradient) = found
    apart = float((gradient - expected).norm() / expected.norm())
    limit = NEAR_HALF if mixed_dtype(cfg["train"], bench.device) else NEAR_FLOAT32
    if abs(loss - whole) > limit * abs(whole) or apart > 5 * limit:
        raise AssertionError(f"loss {loss:.6f} against {whole:.6f} nats, gradients {apart:.2%} apart")
    return TrialResult(f"loss {loss:.5f} and {whole:.5f} nats, gradients {apart:.2e} apart", {"gradients_apart": apart})


class _Save(TrainerCallback):
    def __init__(self, step: int, stops: bool):
        self._step, self._stops = step, stops

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self._step:
            control.should_save, control.should_training_stop = True, self._stops


def resumed_is_uninterrupted(bench: Bench) -> TrialResult:
    """Train in one go, and in two parts with a checkpoint between: the weights have to be identical to the bit."""
    cfg = bench.configuration({"deterministic": True})
    kept: dict[str, Any] = {}

    def seal(partial: Path, target: Path, facts: dict[str, Any]) -> None:
        kept.update(facts)
        partial.replace(target)

    whole, _ = bench.training(cfg, "whole")
    whole.train()
    expected = copied_weights(whole.model)
    first, _ = bench.training(cfg, "parts", Hooks(seal=seal), (_Save(3, stops=True),))
    first.train()
    second, _ = bench.training(cfg, "parts", Hooks(seal=seal))
    second.resume(kept)
    second.train(resume_from_checkpoint=str(bench.work / "parts" / "checkpoint-3"))
    if second.state.global_step != cfg["train"]["max_steps"]:
        raise AssertionError(f"it stopped at step {second.state.global_step}")
    _same_bits(expected, copied_weights(second.model))
    return TrialResult("the weights are bit-identical after an interruption")


def repeated_is_the_same(bench: Bench) -> TrialResult:
    """Train twice with ``deterministic: true``: the weights have to be identical to the bit."""
    found = []
    for _ in range(2):
        trainer, _ = bench.training(bench.configuration({"deterministic": True}), "again")
        trainer.train()
        found.append(copied_weights(trainer.model))
    _same_bits(*found)
    return TrialResult("two trainings with deterministic: true are bit-identical")


def _same_bits(expected: list[torch.Tensor], found: list[torch.Tensor]) -> None:
    differ = sum(not torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    if differ:
        raise AssertionError(f"{differ} of {len(expected)} weights differ")


def nothing_waits(bench: Bench) -> TrialResult:
    """Train with torch's warnings about host synchronisation, except where the loss is read."""
    need_card(bench)
    trainer, _ = bench.training(bench.configuration(), "waits")
    step = trainer.training_step

    def watched(*args: Any, **kwargs: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error" if trainer.state.global_step else "default")  # after the first step
        try:
            return step(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    trainer.training_step = watched  # type: ignore[method-assign]
    trainer.train()
    return TrialResult("no forward or backward pass synchronises with the GPU")


def plan_is_the_memory(bench: Bench) -> TrialResult:
    """Compare the planned memory of a training with what it took."""
    need_card(bench)
    cfg = bench.configuration({"use_liger_kernel": False})  # which the plan does not know to keep less
    before = torch.cuda.memory_allocated()  # workspaces of cuBLAS, which stay with the process
    forget_peak_memory()
    trainer, engine = bench.training(cfg, "memory")
    model: Any = trainer.model
    setting = setting_of(cfg, bench.size.row, bench.device.type, bench.device.has_bf16)
    setting = replace(setting, checkpoint_every=engine.checkpoint_every)
    planned = memory_plan(model.config, setting).allocated
    trainer.train()
    measured = (torch.cuda.max_memory_allocated() - before) / 1e9
    apart = measured / planned - 1
    if abs(apart) > PLAN_TOLERANCE:
        raise AssertionError(f"planned {planned:.2f} GB and measured {measured:.2f} GB ({apart:+.0%})")
    return TrialResult(
        f"planned {planned:.2f} GB, measured {measured:.2f} GB ({apart:+.1%})",
        {"planned_gb": planned, "measured_gb": measured},
    )


def peak_of_products(bench: Bench, seconds: float = 2.0, width: int = 8192) -> float:
    """Return the measured FLOP/s of large matrix products in the dtype of training."""
    dtype = mixed_dtype(bench.configuration()["train"], bench.device) or torch.float32
    one, other = (torch.randn(width, width, device=bench.device.type, dtype=dtype) for _ in range(2))
    for _ in range(3):
        one @ other
    _finish(bench)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for _ in range(5):
            one @ other
        count += 5
        _finish(bench)
    return count * 2 * width**3 / (time.monotonic() - began)


def _finish(bench: Bench) -> None:
    if not bench.device.is_cpu:
        torch.cuda.synchronize()


def throughput_of_8b_layers(bench: Bench) -> TrialResult:
    """Train a stack of layers of an 8B model with LoRA and compare with the measured peak of matrix products."""
    need_card(bench)
    peak = peak_of_products(bench)
    gigabytes = memory_gigabytes(bench.device)
    layers = int(min(8, max(1, (gigabytes - 4) / 3)))
    size = replace(bench.size, layers=layers, row=2048 if gigabytes < 20 else 4096, rows=40, **LAYER_8B)
    large = Bench.build(bench.device, size, bench.work / "large")
    watch = StepTimes()
    cfg = large.configuration({"per_device_train_batch_size": 2, "max_steps": 16, "torch_compile": True})
    trainer, engine = large.training(cfg, "speed", callbacks=(watch,))
    watch.trainer = trainer
    trainer.train()
    model: Any = trainer.model
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    tokens, squares = trainer.counter.total, trainer.counter.squares
    operations = model_flops(shape_of(model.config), tokens, squares, trained) / tokens
    rate = watch.rate(warm_up=6)
    share = rate * operations / peak
    figures = {"tokens_per_second": rate, "peak_flops": peak, "mfu_of_measured_peak": share, "layers": layers}
    said = f"{rate:,.0f} tokens/s in {layers} layers, {share:.0%} of the measured {peak / 1e12:.0f} TFLOP/s"
    return TrialResult(f"{said} with {engine.attention}", figures)


CHECKS: dict[str, Callable[[Bench], TrialResult]] = {
    "card": name_card,
    "attention": choose_attention,
    "packed = unpacked": documents_stay_apart,
    "chunked = plain loss": chunked_loss_is_the_loss,
    "deterministic": repeated_is_the_same,
    "resumed = uninterrupted": resumed_is_uninterrupted,
    "no waits": nothing_waits,
    "plan = memory": plan_is_the_memory,
    **{f"method: {name}": functools.partial(try_method, name=name) for name in METHOD_SETTINGS},
    "method: DPO": try_pairs,
    "throughput": throughput_of_8b_layers,
    **{
        f"preset: {name}": functools.partial(try_preset, preset=preset)
        for name, preset in read_presets().items()
        if name not in EXAMPLE_MODEL_PRESETS
    },
}


def free() -> None:
    """Free the memory of a check."""
    torch._dynamo.reset()
    gc.collect()
    if has_usable_card():
        torch.cuda.empty_cache()
