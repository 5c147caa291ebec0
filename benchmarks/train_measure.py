"""Run one case of `benchmarks/train.py` in this process: time it after the warm-up, score it before and after."""

import contextlib
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from train_cases import Built, Case, plain_script, trl_default, trl_packed
from train_ours import packed_rows
from train_workload import Corpus, Workload, corpora
from transformers import Trainer, TrainerCallback
from transformers.utils import logging

from snaketune.plan.devices.hardware import peak_flops
from snaketune.plan.flops import model_flops, shape_of
from snaketune.train.device import Device, prepare_arithmetic
from snaketune.train.kernels.compiling import compilations

MEGA = 1e6
BUILDERS: dict[str, Callable[[Case, Workload, Corpus, Device, Path], Built]] = {
    "plain": plain_script,
    "trl": trl_default,
    "trl-packed": trl_packed,
    "snaketune": packed_rows,
}


class Window(TrainerCallback):
    """The clock: from the end of the warm-up to the end of the last step, with the device's work done at both ends.

    Attributes:
        seconds, cpu_seconds: of the window, wall and of this process.
        step_seconds: of each step in it, on a CPU.
        peak_bytes: most memory at any moment of the training, warm-up included: allocated on a GPU, resident on a CPU.
    """

    def __init__(self, warmup: int, device: Device):
        self._warmup, self._device, self._starts = warmup, device, (0.0, 0.0, 0)
        self.step_ends: list[float] = []
        self.seconds = self.cpu_seconds = self.peak_bytes = 0.0
        self.graphs_after_warmup = 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Forget the peak of building the model.

        Raises:
            SystemExit: if there is nothing left after the warm-up.
        """
        if state.max_steps <= self._warmup:
            raise SystemExit(f"{state.max_steps} steps and {self._warmup} of warm-up: give more --documents.")
        _forget_peak(self._device)

    def on_step_end(self, args, state, control, **kwargs):
        """Start or stop the clock."""
        if state.global_step == self._warmup:
            self._synchronize()
            self._starts = (time.perf_counter(), time.process_time(), compilations().graphs)
            self.step_ends = [self._starts[0]]
        elif state.global_step > self._warmup:
            if state.global_step == state.max_steps:
                self._stop()
            self.step_ends.append(time.perf_counter())

    def _stop(self) -> None:
        self._synchronize()
        wall, cpu, graphs = self._starts
        self.seconds, self.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        self.graphs_after_warmup = compilations().graphs - graphs
        self.peak_bytes = _peak(self._device)

    def _synchronize(self) -> None:
        if not self._device.is_cpu:
            torch.cuda.synchronize()


def _forget_peak(device: Device) -> None:
    if not device.is_cpu:
        torch.cuda.reset_peak_memory_stats()
        return
    # Only Linux forgets; elsewhere the peak since the process began has to do.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: Device) -> float:
    if not device.is_cpu:
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run_case(case: Case, workload: Workload) -> dict[str, Any]:
    """Return what was measured in one training of ``case``."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = prepare_arithmetic(workload.threads)
    trained, held_out = corpora(workload)
    with tempfile.TemporaryDirectory() as folder:
        built = BUILDERS[case.kind](case, workload, trained, device, Path(folder))
        before = held_out_loss(built.trainer.model, held_out)
        window = Window(workload.warmup, device)
        built.trainer.add_callback(window)
        built.trainer.train()
        after = held_out_loss(built.trainer.model, held_out)
    losses = {"loss_before": round(before, 5), "loss_after": round(after, 5)}
    return {"case": case.name, **_figures(built, window, workload, device), **losses}


def _figures(built: Built, window: Window, workload: Workload, device: Device) -> dict[str, Any]:
    trainer = built.trainer
    skipped = workload.warmup * trainer.args.gradient_accumulation_steps
    lengths = [length for batch in built.batches[skipped:] for length in batch]
    tokens, slots = sum(lengths), sum(built.slots[skipped:])
    rate = tokens / window.seconds
    return {
        "tokens_per_second": round(rate, 1),
        "tokens_per_cpu_second": round(tokens / window.cpu_seconds, 1) if device.is_cpu else None,
        "mfu": _mfu(trainer, lengths, window.seconds, device),
        "peak_memory_mb": round(window.peak_bytes / MEGA, 1),
        "tokens": tokens,
        "seconds": round(window.seconds, 3),
        "real_share": round(tokens / slots, 4),
        "steps": trainer.state.global_step,
        "steps_timed": trainer.state.global_step - workload.warmup,
        "documents_trained": sum(map(len, built.batches)),
        "tokens_trained": sum(map(sum, built.batches)),
        "compiled_after_warmup": window.graphs_after_warmup,
        "device": device.type if device.is_cpu else torch.cuda.get_device_name(),
    }


def _mfu(trainer: Trainer, lengths: list[int], seconds: float, device: Device) -> float | None:
    """Return the share of the GPU's peak that the model's own work took, or None where the peak is unknown."""
    if device.is_cpu:
        return None
    peak = peak_flops(torch.cuda.get_device_name(), "bfloat16")
    if not peak:
        return None
    lora = sum(part.numel() for part in trainer.model.parameters() if part.requires_grad)
    shape, squares = shape_of(trainer.model.config), sum(length * length for length in lengths)
    return round(model_flops(shape, sum(lengths), squares, lora, False) / seconds / peak, 4)


@torch.no_grad()
def held_out_loss(model: Any, corpus: Corpus) -> float:
    """Return the mean negative log-likelihood per trained token of documents that are scored one by one, in nats.

    It does not go through the trainer, the compiled layers or the attention kernel that is measured.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    total, count = 0.0, 0
    with _plain_forward(model):
        for index in range(len(corpus)):
            ids, mask = (torch.from_numpy(part).to(device, torch.int64)[None] for part in corpus.document(index))
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            losses = functional.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")
            total += float((losses * mask[:, 1:]).sum())
            count += int(mask[:, 1:].sum())
    model.train(was_training)
    return total / count


@contextlib.contextmanager
def _plain_forward(model: Any) -> Iterator[None]:
    base = model.get_base_model()
    measured = base.config._attn_implementation
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=next(model.parameters()).dtype == torch.bfloat16)
    base.set_attn_implementation("sdpa")
    try:
        with torch.compiler.set_stance("force_eager"), autocast:
            yield
    finally:
        base.set_attn_implementation(measured)
