"""A training run from prepared model and packed rows to a finished adapter, resumable at any instant."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import set_seed

from snaketune.core.errors import ConfigError, TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.model.adapters.lora import leave_inputs_to_autocast
from snaketune.model.adapters.new_tokens import advice_on_tokens, untrained_tokens, with_token_numbers
from snaketune.settings.operational import Operational
from snaketune.settings.training_slices import TrainingSlice
from snaketune.train.arguments import training_arguments
from snaketune.train.checkpoints.best_checkpoint import BestCheckpoint
from snaketune.train.checkpoints.checkpoint_schedule import CheckpointSchedule, LogSchedule
from snaketune.train.checkpoints.checkpoints import checkpoint_facts, keep_newest, newest_intact, seal
from snaketune.train.determinism import choose_kernels, explaining_refusal
from snaketune.train.device import Device, check_formats, computing_dtype, mixed_dtype, prepare_arithmetic
from snaketune.train.distributed.process_group import ALONE, ProcessGroup
from snaketune.train.distributed.strategy import require_strategy
from snaketune.train.distributed.zero import ZERO_STAGES
from snaketune.train.engine import TrainingChoices, prepare_engine
from snaketune.train.estimate import estimate_run
from snaketune.train.hooks import Hooks
from snaketune.train.kernels.float8 import require_float8, use_float8
from snaketune.train.loading.adapting import add_adapter
from snaketune.train.loading.loading import load_base
from snaketune.train.loading.origins import NO_REWARDS
from snaketune.train.monitoring.metrics import MetricsWriter, sync_metrics, unknown_mfu
from snaketune.train.monitoring.mfu import TrainingFlops, training_flops
from snaketune.train.monitoring.sinks import open_sinks, require_sinks
from snaketune.train.out_of_memory import advise_smaller, explaining_out_of_memory
from snaketune.train.preference.reference_cache import loss_limit, preference_settings
from snaketune.train.safety import LossWatch, check_rows, describe_batches
from snaketune.train.signals import StopRequest
from snaketune.train.trainer import PackedTrainer, assemble


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished training: its resulting checkpoint and what the run cost.

    Attributes:
        checkpoint: the checkpoint to publish.
        best: the checkpoint kept, if the best one or early stopping was requested.
        info: volatile facts: performance decisions, times, and cost of checkpoints.
    """

    checkpoint: Path
    steps: int
    resumed_from: int | None
    tokens_this_time: int
    device: str
    info: dict[str, Any]
    best: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """A trainer that is ready to train, with its schedule, engine and stop request."""

    trainer: PackedTrainer
    schedule: CheckpointSchedule
    engine: TrainingChoices
    stop: StopRequest


def train(
    model_folder: Path,
    rows: PackedRows,
    held_out: PackedRows,
    cfg: TrainingSlice,
    settings: Operational,
    work: Path,
    start: Path | None = None,
    judges: Mapping[str, Path] = NO_REWARDS,
) -> Finished:
    """Train to the end, from the newest intact checkpoint in ``work`` if there is one.

    Args:
        model_folder: the prepared base model.
        rows: packed training rows.
        held_out: packed held-out rows.
        cfg: the ``train``, ``adapter`` and ``model`` slices of the configuration.
        settings: operational settings (loader, checkpoints, limits), which never change the result.
        work: private folder of this training, named after its fingerprint.
        start: weights of an adapter to continue from.
        judges: folders of the reward models that ``train.grpo.rewards`` names, by their names there.

    Raises:
        ConfigError: if the configuration does not fit the device or the model.
        DataError: if the rows do not fit the model.
        TrainingError: if a value is not finite, the loss diverges, memory runs out or training ended early.
    """
    if cfg["train"]["method"] == "grpo":
        from snaketune.train.reinforcement.grpo_training import train_by_rewards  # TRL: seconds that others do not pay

        return train_by_rewards(model_folder, rows, cfg, settings, work, start, judges)
    process_group = ProcessGroup.of_environment()
    if not process_group.is_main_process:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - only the main process prints; errors go to stderr
    # Cheap refusals come before the model is loaded, which takes minutes for a large one.
    require_sinks(settings["report_to"])
    device = prepare_arithmetic(cfg["train"]["cpu_threads"])
    # The folder is named after the fingerprint: a checkpoint in it belongs to exactly this training, or is refused.
    checkpoint = newest_intact(work, work.name)
    saved = checkpoint_facts(checkpoint) if checkpoint else {}
    best = BestCheckpoint(cfg["train"])
    best.require_evaluations(len(held_out))
    if checkpoint and (saved["step"] == saved["max_steps"] or best.ended_with(saved)):
        return _finished_before(checkpoint, saved, best, work, device)
    out_of_memory = explaining_out_of_memory(lambda: advise_smaller(model_folder, rows.row_length, cfg, device))
    with out_of_memory, explaining_refusal(), StopRequest(process_group) as stop:
        run = prepare_run(model_folder, rows, held_out, cfg, settings, work, device, stop, start, process_group)
        if checkpoint:
            run.trainer.resume(saved)
            run.schedule.restore(saved["save_seconds"])
            print(f"Resuming from step {saved['step']}.", flush=True)
        run.trainer.require_room(work)
        run.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    require_completion(run, work)
    step = run.trainer.state.global_step
    tokens = run.trainer.counter.since_start
    best, info = run.trainer.best, describe_finished_run(run)
    finished = Finished(best.chosen(work, step), step, saved.get("step"), tokens, device.type, info, best.result(step))
    process_group.destroy()
    return finished


def _finished_before(
    checkpoint: Path, saved: dict[str, Any], best: BestCheckpoint, work: Path, device: Device
) -> Finished:
    again = f"To train it once more, first remove {work}: rm -r {work}"
    print(f"Training is already complete in {checkpoint}. {again}", flush=True)
    best.restore(saved)
    step = saved["step"]
    return Finished(best.chosen(work, step), step, step, 0, device.type, {}, best.result(step))


def require_completion(run: Run, work: Path) -> None:
    """Check that training completed all steps and that its last checkpoint exists.

    Raises:
        TrainingError: naming the step it reached and what to do.
    """
    state = run.trainer.state
    is_over = state.global_step == state.max_steps or run.trainer.best.found.is_over
    if is_over and (work / f"checkpoint-{state.global_step}").is_dir():
        return
    if run.stop:
        raise run.stop.explain(state.global_step, state.max_steps, work)
    raise TrainingError(
        f"training ended at step {state.global_step} of {state.max_steps}: nothing is published; run the same command "
        "to resume from the last checkpoint."
    )


def describe_finished_run(run: Run) -> dict[str, Any]:
    """Return the volatile facts of a finished run."""
    seconds = {name: round(value, 3) for name, value in run.trainer.times.total.items()}
    return {"engine": run.engine.facts(), "seconds": seconds, "checkpoints": run.schedule.facts()}


def build_trainer(model_folder, rows, held_out, cfg, settings, work, device: Device) -> PackedTrainer:
    """Return the trainer of a run as :func:`train` uses it; nothing is trained yet."""
    return prepare_run(model_folder, rows, held_out, cfg, settings, work, device, StopRequest()).trainer


def prepare_run(
    model_folder: Path,
    rows: PackedRows,
    held_out: PackedRows,
    cfg: TrainingSlice,
    settings: Operational,
    work: Path,
    device: Device,
    stop: StopRequest,
    start: Path | None = None,
    process_group: ProcessGroup = ALONE,
    whole: TrainingSlice | None = None,
) -> Run:
    """Load and check everything and return the run, ready to train.

    ``whole`` is the configuration of the training that this one is a sample of: its length decides on compilation.
    """
    if cfg["train"]["method"] == "grpo":
        raise ConfigError("train.method: grpo trains on what it generates: it has no steps over packed rows to take.")
    choose_kernels(cfg["train"]["deterministic"], device)
    check_formats(cfg, device)
    require_float8(cfg["train"], device)
    several = require_strategy(cfg, device, work, settings.get("scratch"))
    # Before the adapter is made: its first weights are drawn from this seed, and a resumed run overwrites them.
    set_seed(cfg["train"]["seed"])
    base = load_base(model_folder, cfg, device)
    adapter = with_token_numbers(cfg["adapter"], model_folder)
    model = add_adapter(base, adapter, start)
    # DeepSpeed does not use autocast: it casts the weights themselves to 16 bits.
    if mixed_dtype(cfg["train"], device) and cfg["train"]["strategy"] not in ZERO_STAGES:
        leave_inputs_to_autocast(model)
    check_rows(model, rows, held_out)
    notes = (
        describe_batches(len(rows), cfg["train"]),
        advice_on_tokens(lambda: rows, lambda: untrained_tokens(model_folder), adapter),
    )
    for note in filter(None, notes):
        print(note, flush=True)
    engine = prepare_engine(model, (rows, held_out), cfg, device, estimate_run(model, rows, whole or cfg, device))
    if cfg["train"]["fp8"]:
        use_float8(model, cfg["adapter"]["type"] == "none", cfg["train"]["fp8"])
    # TrainingArguments come last: once they exist, DeepSpeed shards every new model, even one without weights. It also
    # creates its own process group.
    if cfg["train"]["strategy"] not in ZERO_STAGES:
        process_group.meet(device.type)
    flops = training_flops(model, cfg["adapter"]["type"] == "none", device, computing_dtype(cfg, device))
    arguments = training_arguments(
        cfg["train"], settings, work, device, len(held_out) > 0, engine.checkpoint_every, **several
    )
    schedule = CheckpointSchedule(
        settings["save_steps"], settings["hours_between_interruptions"], process_group=process_group
    )
    metrics, best = work / "metrics.jsonl", BestCheckpoint(cfg["train"])
    hooks = Hooks(
        seal=_sealing(work, settings["save_total_limit"], schedule, metrics, best),
        stop_requested=stop.agreed,
        saved=schedule.saved,
        process_group=process_group,
    )
    trainer = assemble(
        model,
        arguments,
        rows,
        held_out,
        engine.layout,
        hooks,
        steps_in_backward=cfg["train"]["optimizer_in_backward"],
        **preference_settings(cfg, model_folder, (rows, held_out), work, start, whole is not None),
    )
    writers = [_metrics_writer(trainer, flops, cfg, settings, work)] if process_group.is_main_process else []
    lines = LogSchedule(cfg["train"]["logging_steps"])
    trainer.best = best
    for callback in (schedule, lines, stop, *writers, best, *engine.callbacks):
        trainer.add_callback(callback)
    return Run(trainer, schedule, engine, stop)


def _sealing(
    work: Path, limit: int, schedule: CheckpointSchedule, metrics: Path, best: BestCheckpoint
) -> Callable[[Path, Path, dict[str, Any]], None]:
    """Return the function that seals checkpoints of this run, with facts that the trainer does not have."""

    def seal_checkpoint(partial: Path, target: Path, facts: dict[str, Any]) -> None:
        # First the lines, then the checkpoint: one that is sealed must never be ahead of its metrics.
        sync_metrics(metrics)
        seal(partial, target, {**facts, "fingerprint": work.name, "save_seconds": schedule.cost})
        keep_newest(work, limit, best.kept_step())

    return seal_checkpoint


def _metrics_writer(
    trainer: PackedTrainer, flops: TrainingFlops | None, cfg: TrainingSlice, settings: Operational, work: Path
) -> MetricsWriter:
    return MetricsWriter(
        work / "metrics.jsonl",
        trainer.counter,
        trainer.times,
        LossWatch(loss_limit(cfg["train"], settings["max_loss_increase"])),
        flops.utilization if flops else unknown_mfu,
        open_sinks(settings["report_to"], work, cfg),
    )
