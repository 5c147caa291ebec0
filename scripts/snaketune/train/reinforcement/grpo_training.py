"""A GRPO training from a prepared model and packed rows to a finished adapter."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.errors import TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.settings.operational import Operational
from snaketune.settings.train_section import GrpoSection
from snaketune.settings.training_slices import TrainingSlice
from snaketune.train.checkpoints.checkpoint_schedule import CheckpointSchedule
from snaketune.train.checkpoints.checkpoints import checkpoint_facts, keep_newest, newest_intact, seal
from snaketune.train.determinism import choose_kernels, explaining_refusal
from snaketune.train.device import Device, check_formats, prepare_arithmetic
from snaketune.train.hooks import Hooks
from snaketune.train.loading.origins import NO_REWARDS
from snaketune.train.monitoring.metrics import sync_metrics
from snaketune.train.monitoring.sinks import open_sinks, require_sinks
from snaketune.train.out_of_memory import advise_smaller, explaining_out_of_memory
from snaketune.train.reinforcement.grpo import GENERATION, GroupTrainer, add_callbacks, build
from snaketune.train.run import Finished
from snaketune.train.signals import StopRequest


def train_by_rewards(
    folder: Path,
    rows: PackedRows,
    cfg: TrainingSlice,
    settings: Operational,
    work: Path,
    start: Path | None,
    judges: Mapping[str, Path] = NO_REWARDS,
) -> Finished:
    """Train to the end, from the newest intact checkpoint in ``work`` if there is one.

    Arguments and errors are those of :func:`snaketune.train.run.train`.
    """
    require_sinks(settings["report_to"])
    device = prepare_arithmetic(cfg["train"]["cpu_threads"])
    choose_kernels(cfg["train"]["deterministic"], device)
    check_formats(cfg, device)
    checkpoint = newest_intact(work, work.name)
    saved = checkpoint_facts(checkpoint) if checkpoint else {}
    if checkpoint and saved["step"] == saved["max_steps"]:
        print(f"Training is already complete in {checkpoint}.", flush=True)
        return Finished(checkpoint, saved["step"], saved["step"], 0, device.type, {})
    schedule = CheckpointSchedule(settings["save_steps"], settings["hours_between_interruptions"])
    hooks = Hooks(seal=_sealing(work, settings["save_total_limit"], schedule), saved=schedule.saved)
    out_of_memory = explaining_out_of_memory(lambda: advise_smaller(folder, rows.row_length, cfg, device))
    with out_of_memory, explaining_refusal(), StopRequest() as stop:
        trainer = build(folder, rows, cfg, settings, work, device, hooks, start, judges)
        sinks = open_sinks(settings["report_to"], work, cfg)
        add_callbacks(trainer, schedule, stop, cfg["train"], work / "metrics.jsonl", sinks)
        if checkpoint:
            trainer.counter.restore(saved)
            schedule.restore(saved["save_seconds"])
            print(f"Resuming from step {saved['step']}.", flush=True)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _require_completion(trainer, stop, work)
    step = trainer.state.global_step
    seconds = {name: round(value, 3) for name, value in trainer.times.total.items()}
    info = {"seconds": seconds, "checkpoints": schedule.facts()}
    newest, tokens = work / f"checkpoint-{step}", trainer.counter.since_start
    return Finished(newest, step, saved.get("step"), tokens, device.type, info)


@dataclass(frozen=True, slots=True)
class SampledTraining:
    """A training by rewards that is ready to be measured."""

    trainer: GroupTrainer

    def answer_facts(self) -> dict[str, float]:
        """Return the mean tokens of prompts and answers, and the fraction of the time that generating took."""
        counter, spent = self.trainer.counter, self.trainer.times.total
        count, passed = max(self.trainer.answers, 1), spent["compute"] + spent["data"]
        return {
            "prompt_tokens": (counter.total - counter.trained) / count,
            "answer_tokens": counter.trained / count,
            "generation_share": spent[GENERATION] / passed if passed else 0.0,
        }


def prepare_sample(
    folder: Path, rows: PackedRows, cfg: TrainingSlice, settings: Operational, work: Path, device: Device
) -> SampledTraining:
    """Return a short training by rewards, ready to be measured; reward models give no scores in it.

    They may not be trained yet when a run is planned, so their time is not measured.
    """
    choose_kernels(cfg["train"]["deterministic"], device)
    check_formats(cfg, device)
    group = cfg["train"]["grpo"]
    rewards = [name for name in group["rewards"] if not name.startswith("run:")] or ["length"]
    sampled: GrpoSection = {**group, "rewards": rewards, "reward_weights": None, "max_reward_fall": None}
    wanted: TrainingSlice = {**cfg, "train": {**cfg["train"], "grpo": sampled}}
    schedule = CheckpointSchedule(settings["save_steps"], settings["hours_between_interruptions"])
    hooks = Hooks(seal=_sealing(work, settings["save_total_limit"], schedule), saved=schedule.saved)
    trainer = build(folder, rows, wanted, settings, work, device, hooks, None)
    add_callbacks(trainer, schedule, StopRequest(), wanted["train"], work / "metrics.jsonl", open_sinks([], work, cfg))
    return SampledTraining(trainer)


def _require_completion(trainer: GroupTrainer, stop: StopRequest, work: Path) -> None:
    state = trainer.state
    if state.global_step == state.max_steps and (work / f"checkpoint-{state.global_step}").is_dir():
        return
    if stop:
        raise stop.explain(state.global_step, state.max_steps, work)
    raise TrainingError(
        f"training ended at step {state.global_step} of {state.max_steps}: nothing is published; run the same"
        " command again to continue from the last checkpoint."
    )


def _sealing(work: Path, limit: int, schedule: CheckpointSchedule) -> Any:
    def seal_checkpoint(partial: Path, target: Path, facts: dict[str, Any]) -> None:
        sync_metrics(work / "metrics.jsonl")
        seal(partial, target, {**facts, "fingerprint": work.name, "save_seconds": schedule.cost})
        keep_newest(work, limit)

    return seal_checkpoint
