"""Autotuning: equivalent settings are measured with short probes, which results in advice.

Every candidate keeps the effective batch. Candidates that cannot fit by plan are not tried, running out of memory is a
valid result, and the winner has to be faster by more than the spread of the repeats.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

from snaketune.core.errors import PlanError
from snaketune.facts.probe_facts import Autotune, CandidateRow, CandidateSetting
from snaketune.plan.candidates import LEVELS, Candidate, advice, row_choices, worker_choices
from snaketune.plan.memory.fitting import MARGIN
from snaketune.plan.memory.memory import memory_plan
from snaketune.plan.memory_settings import setting_of
from snaketune.settings.operational import Operational
from snaketune.settings.training_slices import PaddedTrain, TrainingSlice
from snaketune.train.device import find_device
from snaketune.train.out_of_memory import MemoryExhaustedError, memory_gigabytes
from snaketune.train.probe.probing import Probe, ProbeInputs, probe

TUNING_STEPS, TUNING_WARMUP_STEPS, TUNING_REPEATS = 1, 2, 3
TUNING_REPEAT_SECONDS = 2.0
Measure = Callable[[Candidate], Probe]
MemoryOf = Callable[[Candidate], float | None]


def autotune(
    inputs: ProbeInputs, cfg: TrainingSlice, settings: Operational, found: Probe, max_seconds: float
) -> Autotune:
    """Return all candidates with their measurements, and what to change in the configuration.

    Args:
        inputs: as for a probe.
        cfg: as for a probe.
        settings: as for a probe.
        found: the probe of the run as it is configured.
        max_seconds: of training, for each candidate.

    Returns:
        ``candidates`` (rows with ``verdict``: measured, predicted not to fit, ran out of memory), ``current`` and
        ``best`` (their indices), ``advice`` (``changes``, ``speed_up``, ``time_reduction``; None to change nothing)
        and ``memory_gb`` of the device.
    """
    train = cfg["train"]
    there = memory_gigabytes(find_device())
    current = Candidate(
        train["per_device_train_batch_size"],
        train["gradient_accumulation_steps"],
        found.engine["checkpoint_every"],
        settings["dataloader_num_workers"],
    )

    def measure(candidate: Candidate) -> Probe:
        wanted, operational = with_candidate(cfg, settings, candidate)
        return probe(
            inputs,
            wanted,
            operational,
            steps=TUNING_STEPS,
            warmup_steps=TUNING_WARMUP_STEPS,
            repeats=TUNING_REPEATS,
            repeat_seconds=TUNING_REPEAT_SECONDS,
            held_out_rows=1,
            max_seconds=max_seconds,
        )

    cores, is_cpu, splits = os.cpu_count() or 1, find_device().is_cpu, not train["optimizer_in_backward"]
    rows = search_candidates(current, measure, needs_of(inputs, cfg), there, cores, is_cpu, splits)
    best = _fastest(rows)
    return {
        "candidates": rows,
        "current": 0,
        "best": rows.index(best),
        "advice": advice(rows[0], best),
        "memory_gb": there,
    }


def search_candidates(
    current: Candidate,
    measure: Measure,
    needs: MemoryOf,
    memory_gb: float,
    cores: int,
    is_cpu: bool,
    splits: bool = True,
) -> list[CandidateRow]:
    """Return a row for every candidate considered, the configured one first.

    For each micro-batch the least recomputation that fits; then other numbers of loader processes
    with the fastest of these.

    Args:
        current: the configured setting.
        measure: probes a candidate.
        needs: the planned memory of a candidate in GB; None if unknown.
        memory_gb: of the device.
        cores: of the machine.
        is_cpu: whether there is no GPU: memory is no reason to recompute there.
        splits: whether the micro-batch may change: steps within the backward pass do not accumulate.
    """
    rows = [_try(current, measure, needs, memory_gb)]
    # RAM is rarely short on a CPU, and recomputation only costs time there.
    levels = (current.checkpoint_every,) if is_cpu else LEVELS
    own = (current.micro_batch, current.accumulation)
    for micro_batch, accumulation in row_choices(*own) if splits else [own]:
        for level in levels:
            candidate = Candidate(micro_batch, accumulation, level, current.workers)
            if candidate != current:
                rows.append(_try(candidate, measure, needs, memory_gb))
            # The first level that runs is the fastest of this micro-batch: more recomputation only adds work.
            if candidate == current or rows[-1]["tokens_per_second"]:
                break
    # Loader processes last, with the fastest setting only: with every micro-batch the probes would multiply.
    fastest = _fastest(rows)
    for workers in worker_choices(current.workers, cores):
        if workers != current.workers:
            rows.append(_try(_with_workers(fastest["setting"], workers), measure, needs, memory_gb))
    return rows


def _with_workers(setting: CandidateSetting, workers: int) -> Candidate:
    return Candidate(setting["micro_batch"], setting["accumulation"], setting["checkpoint_every"], workers)


def _fastest(rows: Iterable[CandidateRow]) -> CandidateRow:
    return max((row for row in rows if row["tokens_per_second"]), key=lambda row: row["tokens_per_second"] or 0.0)


def _try(candidate: Candidate, measure: Measure, needs: MemoryOf, memory_gb: float) -> CandidateRow:
    row: CandidateRow = {
        "setting": candidate.facts(),
        "keys": candidate.keys(),
        "planned_gb": needs(candidate),
        "tokens_per_second": None,
        "spread": None,
        "memory_gb": None,
        "origin": "estimated",
        "verdict": "predicted not to fit",
    }
    # Only what exceeds the device even if the plan is too high by its error is left out; the rest is tried.
    if row["planned_gb"] is not None and row["planned_gb"] * (1 - MARGIN) > memory_gb:
        return row
    row["origin"] = "measured"
    try:
        found = measure(candidate)
    except MemoryExhaustedError:
        return {**row, "verdict": "ran out of memory"}
    row |= {"tokens_per_second": found.tokens_per_second, "spread": found.spread}
    return {**row, "memory_gb": found.peak_memory_bytes / 1e9, "verdict": "measured"}


def needs_of(inputs: ProbeInputs, cfg: TrainingSlice) -> MemoryOf:
    """Return a function that estimates the memory of a candidate in GB."""
    from transformers import AutoConfig

    allowed, device = cfg["model"].get("trust_remote_code", False), find_device()
    config = AutoConfig.from_pretrained(str(inputs.model_folder), local_files_only=True, trust_remote_code=allowed)
    setting = setting_of(cfg, inputs.rows.row_length, device.type, device.has_bf16)

    def needs(candidate: Candidate) -> float | None:
        changed = replace(setting, micro_batch=candidate.micro_batch, checkpoint_every=candidate.checkpoint_every)
        try:
            return memory_plan(config, changed).total
        except PlanError:
            return None

    return needs


def with_candidate(
    cfg: TrainingSlice, settings: Operational, candidate: Candidate
) -> tuple[TrainingSlice, Operational]:
    """Return configuration and operational settings with those of a candidate."""
    values = {key.removeprefix("train."): value for key, value in candidate.keys().items()}
    workers = values.pop("dataloader_num_workers")
    train = cast(PaddedTrain, {**cfg["train"], **values})
    return {**cfg, "train": train}, {**settings, "dataloader_num_workers": workers}
