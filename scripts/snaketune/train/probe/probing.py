"""A probe: a short training on a run's own rows that measures throughput and memory and predicts the duration.

It uses the code of :func:`snaketune.train.run.train`, from loading to the held-out loss, and discards the result. The
first steps (compilation, first allocations, filling of caches) are measured separately.
"""

import contextlib
import gc
import io
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from snaketune.core.atomic import private_folder, sibling
from snaketune.core.errors import TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.settings.operational import Operational
from snaketune.settings.train_section import TrainSection
from snaketune.settings.training_slices import TrainingSlice
from snaketune.train.checkpoints.checkpoint_schedule import logging_interval
from snaketune.train.determinism import explaining_refusal
from snaketune.train.device import prepare_arithmetic
from snaketune.train.monitoring.metrics import read_metrics
from snaketune.train.monitoring.step_timers import forget_peak_memory, peak_bytes
from snaketune.train.out_of_memory import advise_smaller, explaining_out_of_memory
from snaketune.train.probe.probe_clock import MOST_STEPS, ProbeClock
from snaketune.train.run import Run, prepare_run
from snaketune.train.signals import StopRequest

if TYPE_CHECKING:  # TRL, which is imported for this method alone
    from snaketune.train.reinforcement.grpo_training import SampledTraining

NEVER = 1 << 60
"""Steps between checkpoints: only the last step is saved."""
ONE_PROCESS = "single"


@dataclass(frozen=True, slots=True)
class ProbeInputs:
    """What a probe trains on.

    Attributes:
        model_folder: the prepared base model.
        rows, held_out: packed rows of both splits, of the run itself.
        scratch: a folder of the probe's own, on the disk of the checkpoints; it is emptied first and removed at the
            end.
        start: weights of an adapter to continue from.
    """

    model_folder: Path
    rows: PackedRows
    held_out: PackedRows
    scratch: Path
    start: Path | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """The measurements of a probe; nothing in it is estimated.

    Attributes:
        tokens_per_second: real tokens (padding never counts) per second of training on one device, with the wait for
            data and without checkpoints and evaluations: the median of ``rates``.
        rates: that of each repeat.
        spread: (fastest - slowest) / median of the repeats; 0 with one repeat.
        peak_memory_bytes: on a GPU the peak of tensors, on a CPU the resident memory of this process, including what it
            held before.
        save_seconds: of one checkpoint, written and flushed to the disk of ``scratch``.
        load_seconds: until the first step can begin: loading, adapter, checks.
        warmup_seconds, warmup_tokens: of the steps before the first repeat, compiling included.
        evaluation_seconds: of the held-out loss; None without held-out rows.
        evaluation_tokens: real tokens of the held-out rows that were used.
        steps: optimizer steps in all, warm-up included.
        measured_steps: those that count for the throughput.
        tokens: real tokens trained on, warm-up included.
        losses: mean training loss per trained token of each log interval, in nats, in order.
        held_out_loss: after the last step, in nats per loss-bearing token; None without held-out rows.
        engine: the performance decisions: attention kernel, chunked loss, recomputation, compiled layers.
        answers: of a training by rewards, the mean tokens of its prompts and answers, and the fraction of the time that
            generating takes; None for other methods.
    """

    tokens_per_second: float
    rates: tuple[float, ...]
    spread: float
    peak_memory_bytes: int
    save_seconds: float
    load_seconds: float
    warmup_seconds: float
    warmup_tokens: int
    evaluation_seconds: float | None
    evaluation_tokens: int
    steps: int
    measured_steps: int
    tokens: int
    losses: tuple[float, ...]
    held_out_loss: float | None
    engine: Mapping[str, Any]
    answers: Mapping[str, float] | None = None

    @property
    def start_seconds(self) -> float:
        """Return the start-up seconds of a run: loading, and the excess time of the first steps."""
        return self.load_seconds + max(self.warmup_seconds - self.warmup_tokens / self.tokens_per_second, 0.0)


def probe(
    inputs: ProbeInputs,
    cfg: TrainingSlice,
    settings: Operational,
    *,
    steps: int = 4,
    warmup_steps: int = 2,
    repeats: int = 3,
    repeat_seconds: float | None = None,
    held_out_rows: int | None = None,
    max_seconds: float | None = None,
) -> Probe:
    """Train ``warmup_steps + repeats * steps`` optimizer steps in this process and return what was measured.

    With ``repeat_seconds`` a repeat has as many steps as take that long, judged by the warm-up, and at least ``steps``.

    The repeats follow each other in one training, so that each sees other rows: their spread is that of rows and
    machine together. Learning-rate schedule and warm-up are those of a training with exactly these steps. One device
    trains, whatever ``train.strategy`` says. Nothing is printed and nothing is left on disk.

    Args:
        inputs: model, rows and a folder to write to.
        cfg: the ``train``, ``adapter`` and ``model`` sections, as training gets them.
        settings: operational settings of training; ``save_steps`` and ``report_to`` are ignored.
        steps: optimizer steps of one repeat.
        warmup_steps: optimizer steps before the first repeat, at least 1; at least 2 with ``repeat_seconds``.
        repeats: how often the throughput is measured.
        repeat_seconds: target duration of a repeat; None for ``steps`` steps.
        held_out_rows: held-out rows that are used, None for all.
        max_seconds: no repeat begins after this many seconds of training; one is always measured.

    Raises:
        ConfigError: if the configuration does not fit the device or the model.
        DataError: if the rows do not fit the model.
        TrainingError: if memory runs out or a value is not finite.
    """
    steps, warmup_steps = _whole_generations(cfg, steps, max(warmup_steps, 2 if repeat_seconds else 1))
    wanted = _short_training(cfg, steps, warmup_steps + (MOST_STEPS if repeat_seconds else steps) * repeats)
    held_out = inputs.held_out if held_out_rows is None else FirstRows(inputs.held_out, held_out_rows)
    device = prepare_arithmetic(wanted["train"]["cpu_threads"])
    operational: Operational = {**settings, "save_steps": NEVER, "save_total_limit": 1, "report_to": []}

    def explain() -> str:
        return advise_smaller(inputs.model_folder, inputs.rows.row_length, wanted, device)

    def prepare(work: Path) -> "Run | SampledTraining":
        folder, rows, start = inputs.model_folder, inputs.rows, inputs.start
        if cfg["train"]["method"] == "grpo":
            return _prepare_generating(folder, rows, wanted, operational, work, device)
        return prepare_run(folder, rows, held_out, wanted, operational, work, device, StopRequest(), start, whole=cfg)

    with (
        _leaving_no_trace(),
        private_folder(sibling(inputs.scratch)) as work,
        explaining_out_of_memory(explain),
        explaining_refusal(),
    ):
        repeat = (steps, warmup_steps, repeats, repeat_seconds, max_seconds)
        return _measure(lambda: prepare(work), repeat, work, held_out)


def _whole_generations(cfg: TrainingSlice, *counts: int) -> tuple[int, ...]:
    """Return numbers of steps, of a training by rewards rounded up to whole generations."""
    train = cfg["train"]
    # Answers are counted when they are generated, which happens once in num_iterations steps.
    unit = train["grpo"]["num_iterations"] if train["method"] == "grpo" else 1
    return tuple(math.ceil(count / unit) * unit for count in counts)


def _prepare_generating(*args: Any) -> "SampledTraining":
    from snaketune.train.reinforcement.grpo_training import prepare_sample  # TRL: seconds that others do not pay

    return prepare_sample(*args)


def _measure(
    prepare: Callable[[], "Run | SampledTraining"],
    repeat: tuple[int, int, int, float | None, float | None],
    work: Path,
    held_out: PackedRows,
) -> Probe:
    """Train and return what was measured.

    Only local variables of this function refer to the model: when it returns, or its error has been handled, the model
    is freed and the next candidate has the whole memory.
    """
    forget_peak_memory()
    began = time.monotonic()
    run = prepare()
    watch = ProbeClock(run, *repeat)
    run.trainer.add_callback(watch)
    loaded = time.monotonic()
    run.trainer.train()
    return _measured(run, watch, loaded - began, work, _evaluate(run, len(held_out)), held_out)


class FirstRows(PackedRows):
    """A view of the first ``count`` rows, without a copy."""

    def __init__(self, rows: PackedRows, count: int):
        self.__dict__.update(vars(rows))
        self.tokens = rows.tokens[:count]

    def __len__(self) -> int:
        return len(self.tokens)


def _short_training(cfg: TrainingSlice, steps: int, whole: int) -> TrainingSlice:
    """Return the configuration of a training of ``whole`` steps on one device without evaluations."""
    logging = min(logging_interval(cfg["train"]["logging_steps"], whole), steps)
    changed: TrainSection = {"max_steps": whole, "eval_steps": 0, "logging_steps": logging, "strategy": "single"}
    return {**cfg, "train": {**cfg["train"], **changed}}


def _evaluate(run: "Run | SampledTraining", rows: int) -> tuple[float | None, float | None]:
    """Return the held-out loss and the seconds that it took."""
    if not rows or not isinstance(run, Run):
        return None, None
    began = time.monotonic()
    measures = run.trainer.held_out_measures()
    return measures["eval_loss"], time.monotonic() - began


def _measured(
    run: "Run | SampledTraining",
    watch: ProbeClock,
    load_seconds: float,
    work: Path,
    evaluation: tuple[float | None, float | None],
    held_out: PackedRows,
) -> Probe:
    rates, trainer = watch.rates(), run.trainer
    if not rates:
        raise TrainingError("the probe measured nothing, because training ended before one repeat: run it again.")
    loss, seconds = evaluation
    return Probe(
        tokens_per_second=median(rates),
        rates=rates,
        spread=(max(rates) - min(rates)) / median(rates),
        peak_memory_bytes=peak_bytes(),
        save_seconds=trainer.times.last["checkpoint"],
        load_seconds=load_seconds,
        warmup_seconds=watch.warmup_seconds,
        warmup_tokens=watch.marks[0][1],
        evaluation_seconds=seconds,
        evaluation_tokens=int(held_out.tokens.sum()),
        steps=trainer.state.global_step,
        measured_steps=len(rates) * watch.steps,
        tokens=trainer.counter.total,
        losses=tuple(line["loss"] for line in read_metrics(work / "metrics.jsonl") if "loss" in line),
        held_out_loss=loss,
        engine=run.engine.facts() if isinstance(run, Run) else {},
        answers=None if isinstance(run, Run) else run.answer_facts(),
    )


@contextlib.contextmanager
def _leaving_no_trace() -> Iterator[None]:
    """Suppress output, and reset the global state of transformers and accelerate for this process's next training."""
    before = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
            os.environ.pop(name)
        os.environ.update(before)
        # Compiled code of this training would count against the recompilation limit of the next one.
        torch._dynamo.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
