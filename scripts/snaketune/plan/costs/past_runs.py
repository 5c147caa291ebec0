"""What earlier runs measured: their rates replace estimates, so that each plan is better than the last."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from snaketune.facts.fact_files import FactFile
from snaketune.facts.measured import EVALUATION_INFO, RUN_INFO
from snaketune.facts.plan import PLAN
from snaketune.facts.shapes import shaped
from snaketune.plan.devices.target import Target
from snaketune.plan.memory.memory import CONTEXT_GB

NEWEST = 5
"""Number of recent runs that count; older ones may have used other drivers."""
FORMS: Mapping[str, FactFile[Any]] = {
    "plan.json": PLAN,
    "run_info.json": RUN_INFO,
    "evaluation_info.json": EVALUATION_INFO,
}
SHORTEST_SECONDS = 1.0
"""Least seconds of training for a run to count; shorter ones say nothing about throughput."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What runs with the same speed key measured on the same kind of device."""

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
    """Where the figures come from, in words."""


def find_measurement(
    results: Path, own: Path, speed: Mapping[str, Any], flops_per_token: float | None, target: Target, host: str
) -> Measurement | None:
    """Return what earlier runs of this kind measured, None if there is none.

    Runs that differ in rank or in the lengths of their documents are brought to the operations per token of this one.

    Args:
        results: the results folder.
        own: the folder of the run itself, whose plan is being made; when it was trained before, it counts.
        speed: the speed key that a run has to agree on.
        flops_per_token: of this run; None where they cannot be counted.
        target: the device.
        host: this machine; a rate of a CPU is only good for the machine that it was measured on.
    """
    itself = {"speed": speed, "rate": {"flops_per_token": flops_per_token}}
    found = []
    for folder, info, plan in finished_runs(results, target, host, {own: itself}):
        if plan.get("speed") == speed:
            found += measured_run(folder, info, plan, flops_per_token, speed["gpus"])
    newest = sorted(found, key=lambda run: run["finished"])[-NEWEST:]
    return _together(newest) if newest else None


def finished_runs(
    results: Path, target: Target, host: str, plans: Mapping[Path, dict[str, Any]] | None = None
) -> Iterator[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """Yield folder, run_info.json and plan.json of every run on the target's kind of device.

    Args:
        results, target, host: as in ``find_measurement``.
        plans: plans by folder that are taken instead of the files.
    """
    for file in sorted((results / "runs").glob("*/*/run_info.json")):
        folder = file.parent
        if folder.is_symlink() or folder.parent.is_symlink():
            continue
        plan, info = (plans or {}).get(folder) or _read(folder), _read(folder, "run_info.json")
        if plan and info and _is_whole(info) and _is_there(info, target, host):
            yield folder, info, plan


def answer_timings(results: Path, target: Target, host: str, parameters: int) -> list[dict[str, Any]]:
    """Return how fast tuned models of the same size answered on the target's kind of device, the newest last."""
    found = []
    for folder, info, plan in finished_runs(results, target, host):
        timing = (_read(folder, "evaluation_info.json") or {}).get("models", {}).get("tuned")
        if timing and plan.get("work", {}).get("parameters") == parameters:
            found.append((info["train"]["finished"], timing))
    return [timing for _, timing in sorted(found, key=lambda one: one[0])]


def _read(folder: Path, name: str = "plan.json") -> dict[str, Any] | None:
    """Return a fact file; None when it is missing or damaged, or another job is replacing its run just now."""
    try:
        document = json.loads((folder / name).read_bytes())
        shaped(document, FORMS[name].kind)
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _is_whole(info: Mapping[str, Any]) -> bool:
    """Tell whether a run_info.json has what a measurement is made of."""
    machine, train = info.get("machine") or {}, info.get("train") or {}
    try:
        datetime.fromisoformat(train.get("finished") or "")
    except ValueError:
        return False
    memory = info.get("peak_memory") or {}
    return "gpu" in machine and train.get("seconds") is not None and memory.get("resident_bytes") is not None


def _is_there(info: Mapping[str, Any], target: Target, host: str) -> bool:
    machine = info["machine"]
    return is_device(machine["gpu"], target) and (machine["gpu"] is not None or machine.get("host") == host)


def is_device(gpu: Mapping[str, Any] | None, target: Target) -> bool:
    """Tell whether what was measured on ``gpu`` (None: a CPU) was measured on the target's kind of device."""
    if gpu is None or target.is_cpu:
        return gpu is None and target.is_cpu
    return " ".join((gpu.get("name") or "").lower().split()) in {name.lower() for name in target.hardware.names}


def measured_run(
    folder: Path, info: Mapping[str, Any], plan: Mapping[str, Any], flops: float | None, gpus: int
) -> list[dict[str, Any]]:
    """Return one entry with what a run measured, its rate brought to ``flops`` per token; none for a short run."""
    seconds = info.get("seconds") or {}
    training = seconds.get("compute", 0.0) + seconds.get("data", 0.0)
    if training < SHORTEST_SECONDS or not info.get("tokens_this_time"):
        return []
    theirs = (plan.get("rate") or {}).get("flops_per_token")
    correction = theirs / flops if theirs and flops else 1.0
    spent = training + seconds.get("evaluation", 0.0) + seconds.get("checkpoint", 0.0)
    memory = info["peak_memory"]
    on_gpu = memory["gpu_bytes"] / 1e9 + CONTEXT_GB["cuda"] if memory.get("gpu_bytes") else None
    return [
        {
            "name": f"{folder.parent.name}/{folder.name}",
            "finished": datetime.fromisoformat(info["train"]["finished"]),
            "rate": info["tokens_this_time"] / training / gpus * correction,
            "start": max(info["train"]["seconds"] - spent, 0.0),
            "save": (info.get("checkpoints") or {}).get("seconds_per_checkpoint"),
            "evaluation": _evaluation_rate(plan, seconds.get("evaluation")),
            "memory": on_gpu or memory["resident_bytes"] / 1e9,
        }
    ]


def _evaluation_rate(plan: Mapping[str, Any], seconds: float | None) -> float | None:
    """Return the held-out tokens per second of a run; None for one that was not evaluated on its way."""
    tokens = (plan.get("work") or {}).get("eval_tokens", 0) * (plan.get("overheads") or {}).get("evaluations", 0)
    return tokens / seconds if tokens and seconds else None


def _together(runs: list[dict[str, Any]]) -> Measurement:
    rates, names = [run["rate"] for run in runs], [run["name"] for run in runs]
    saves, evaluations = ([run[name] for run in runs if run[name] is not None] for name in ("save", "evaluation"))
    return Measurement(
        tokens_per_second=median(rates),
        slowest=min(rates),
        fastest=max(rates),
        start_seconds=median(run["start"] for run in runs),
        save_seconds=median(saves) if saves else None,
        evaluation_rate=median(evaluations) if evaluations else None,
        memory_gb=max(run["memory"] for run in runs),
        finished=runs[-1]["finished"],
        source=f"measured by {names[0]}" if len(names) == 1 else f"median of {', '.join(names)}",
    )


def preparation_seconds(benchmarks: Mapping[str, str]) -> dict[str, float]:
    """Return the seconds of each stage that was measured; a stage without a file, or with a strange one, is left out.

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
