"""Measurements of earlier runs, which replace estimates in later plans."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, TypeVar

from snaketune.core.errors import DataError
from snaketune.facts.fact_files import FactFile
from snaketune.facts.measured import EVALUATION_INFO, RUN_INFO, AnswerTimes, Gpu, RunInfo
from snaketune.facts.plan_facts import PAST_PLAN, PastPlan
from snaketune.plan.devices.target import Target
from snaketune.plan.memory.memory import CONTEXT_GB

NEWEST = 5
"""Number of recent runs that count; older ones may have used other drivers."""
Facts = TypeVar("Facts")
SHORTEST_SECONDS = 1.0
"""Minimum seconds of training for a run to count; shorter ones do not show throughput."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Measurements of runs with the same speed key on the same kind of device."""

    tokens_per_second: float
    """Tokens per second of one device: the median of the runs."""
    slowest: float
    fastest: float
    start_seconds: float
    """From the start of the job to its end, without training, evaluations and checkpoints: loading, compiling."""
    save_seconds: float | None
    evaluation_rate: float | None
    """Held-out tokens per second of all devices, None where no evaluation was measured."""
    memory_gb: float
    finished: datetime
    """When the last of it was measured."""
    source: str
    """The origin of the figures, in words."""


def find_measurement(
    results: Path, own: Path, speed: Mapping[str, Any], flops_per_token: float | None, target: Target, host: str
) -> Measurement | None:
    """Return the measurement of earlier runs of this kind; None without any.

    The throughput of runs with other ranks or document lengths is scaled to the FLOPs per token of this one.

    Args:
        results: the results folder.
        own: the folder of the run being planned, which counts if it was trained before.
        speed: the speed key that a run has to agree on.
        flops_per_token: of this run; None where they cannot be counted.
        target: the device.
        host: this machine; the throughput of a CPU holds only for the machine that it was measured on.
    """
    itself = PAST_PLAN.parse({"speed": speed, "rate": {"flops_per_token": flops_per_token}}, own)
    found: list[PastRun] = []
    for folder, info, plan in finished_runs(results, target, host, {own: itself}):
        if plan["speed"] == speed:
            found += measured_run(folder, info, plan, flops_per_token, speed["gpus"])
    newest = sorted(found, key=lambda run: run.finished)[-NEWEST:]
    return _together(newest) if newest else None


def finished_runs(
    results: Path, target: Target, host: str, plans: Mapping[Path, PastPlan] = MappingProxyType({})
) -> Iterator[tuple[Path, RunInfo, PastPlan]]:
    """Yield folder, run_info.json and plan.json of every run on the target's kind of device.

    Args:
        results: the results folder.
        target: the device.
        host: this machine, which matters on a CPU.
        plans: plans by folder that are taken instead of the files.
    """
    for file in sorted((results / "runs").glob("*/*/run_info.json")):
        folder = file.parent
        # `latest` points at one of the other folders, whose run would count twice.
        if folder.is_symlink() or folder.parent.is_symlink():
            continue
        plan, info = plans.get(folder) or _read(PAST_PLAN, folder / "plan.json"), _read(RUN_INFO, file)
        # A run without its facts is still running, or was interrupted: its times cover a part only.
        if plan and info and _is_whole(info) and _is_there(info, target, host):
            yield folder, info, plan


def answer_timings(results: Path, target: Target, host: str, parameters: int) -> list[AnswerTimes]:
    """Return the generation speeds of tuned models of the same size on the target's kind of device, newest last."""
    found = []
    for folder, info, plan in finished_runs(results, target, host):
        timings = _read(EVALUATION_INFO, folder / "evaluation_info.json")
        timing = timings["models"].get("tuned") if timings else None
        if timing and plan["work"]["parameters"] == parameters:
            found.append((info["train"]["finished"] or "", timing))
    return [timing for _, timing in sorted(found, key=lambda one: one[0])]


def _read(kind: FactFile[Facts], path: Path) -> Facts | None:
    """Return a fact file; None if it is missing or damaged, or another job is replacing it."""
    try:
        return kind.read(path)
    except (DataError, OSError):
        return None


def _is_whole(info: RunInfo) -> bool:
    """Tell whether a run_info.json holds the values that a measurement needs."""
    try:
        datetime.fromisoformat(info["train"]["finished"] or "")
    except ValueError:
        return False
    return info["train"]["seconds"] is not None and info["peak_memory"]["resident_bytes"] is not None


def _is_there(info: RunInfo, target: Target, host: str) -> bool:
    machine = info["machine"]
    return is_device(machine["gpu"], target) and (not target.is_cpu or machine["host"] == host)


def is_device(gpu: Gpu | None, target: Target) -> bool:
    """Tell whether ``gpu`` (None, or without a name: a CPU) is the target's kind of device."""
    name = gpu["name"] if gpu else None
    if not name or target.is_cpu:
        return not name and target.is_cpu
    return " ".join(name.lower().split()) in {name.lower() for name in target.hardware.names}


@dataclass(frozen=True, slots=True)
class PastRun:
    """What one earlier run measured, in the units of ``Measurement``."""

    name: str
    finished: datetime
    rate: float
    start_seconds: float
    save_seconds: float | None
    evaluation_rate: float | None
    memory_gb: float


def measured_run(folder: Path, info: RunInfo, plan: PastPlan, flops: float | None, gpus: int) -> list[PastRun]:
    """Return a list with a run's measurement, its throughput scaled to ``flops`` per token; empty for a short run."""
    seconds, train, memory = info["seconds"], info["train"], info["peak_memory"]
    training = (seconds["compute"] or 0.0) + (seconds["data"] or 0.0)
    if training < SHORTEST_SECONDS or not info["tokens_this_time"]:
        return []
    theirs = plan["rate"]["flops_per_token"]
    # Runs of one kind reach about the same FLOP/s, so the tokens per second follow the FLOPs per token.
    correction = theirs / flops if theirs and flops else 1.0
    spent = training + (seconds["evaluation"] or 0.0) + (seconds["checkpoint"] or 0.0)
    # torch counts what it allocates; the driver's context takes memory of the card besides.
    on_gpu = memory["gpu_bytes"] / 1e9 + CONTEXT_GB["cuda"] if memory["gpu_bytes"] else None
    return [
        PastRun(
            name=f"{folder.parent.name}/{folder.name}",
            finished=datetime.fromisoformat(train["finished"] or ""),
            rate=info["tokens_this_time"] / training / gpus * correction,
            start_seconds=max((train["seconds"] or 0.0) - spent, 0.0),
            save_seconds=info["checkpoints"]["seconds_per_checkpoint"],
            evaluation_rate=_evaluation_rate(plan, seconds["evaluation"]),
            memory_gb=on_gpu or (memory["resident_bytes"] or 0) / 1e9,
        )
    ]


def _evaluation_rate(plan: PastPlan, seconds: float | None) -> float | None:
    """Return the held-out tokens per second of a run; None without evaluations during training."""
    tokens = (plan["work"]["eval_tokens"] or 0) * (plan["overheads"]["evaluations"] or 0)
    return tokens / seconds if tokens and seconds else None


def _together(runs: list[PastRun]) -> Measurement:
    rates, names = [run.rate for run in runs], [run.name for run in runs]
    saves = [run.save_seconds for run in runs if run.save_seconds is not None]
    evaluations = [run.evaluation_rate for run in runs if run.evaluation_rate is not None]
    return Measurement(
        tokens_per_second=median(rates),
        slowest=min(rates),
        fastest=max(rates),
        start_seconds=median(run.start_seconds for run in runs),
        save_seconds=median(saves) if saves else None,
        evaluation_rate=median(evaluations) if evaluations else None,
        # The largest of the runs, whereas times are medians: running out of memory costs the run, a slow step only
        # time.
        memory_gb=max(run.memory_gb for run in runs),
        finished=runs[-1].finished,
        source=f"measured by {names[0]}" if len(names) == 1 else f"median of {', '.join(names)}",
    )


def preparation_seconds(benchmarks: Mapping[str, str]) -> dict[str, float]:
    """Return the measured seconds of each stage; stages with a missing or malformed file are left out.

    Args:
        benchmarks: path of the file of each stage: a header and one line, the seconds first.
    """
    found = {stage: _seconds(Path(path)) for stage, path in benchmarks.items()}
    return {stage: seconds for stage, seconds in found.items() if seconds is not None}


def _seconds(path: Path) -> float | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return float(lines[1].split("\t")[lines[0].split("\t").index("s")])
    except (OSError, ValueError, IndexError):
        return None
