"""run_info.json and evaluation_info.json: what was measured on a machine, and is part of no identity."""

from typing import Any, TypedDict

from snaketune.facts.fact_files import FactFile
from snaketune.facts.shapes import shaped


class Gpu(TypedDict):
    """The first GPU that was used."""

    name: str | None
    memory_bytes: int | None
    cuda: str | None


class MachineFacts(TypedDict):
    """The machine of a job."""

    host: str | None
    platform: str | None
    cpu_capability: str | None
    cpu_threads: int | None
    gpu: Gpu


class Wall(TypedDict):
    """Beginning and end (ISO 8601) of a job and its seconds."""

    started: str | None
    finished: str | None
    seconds: float | None


class Seconds(TypedDict):
    """The time of a training by activity."""

    compute: float | None
    data: float | None
    evaluation: float | None
    checkpoint: float | None


class Checkpoints(TypedDict):
    """The cost of checkpoints."""

    checkpoints: int | None
    save_steps: int | str | None
    interval_seconds: float | None
    cost_percent: float | None
    seconds_per_checkpoint: float | None
    crash_loses_seconds: float | None


class PeakMemory(TypedDict):
    """Highest use in bytes; ``gpu_bytes`` counts tensors alone, as torch does."""

    gpu_bytes: int | None
    resident_bytes: int | None


class Git(TypedDict):
    """The checkout that the workflow ran from."""

    commit: str | None
    uncommitted: Any


class RunInfo(TypedDict):
    """run_info.json; ``resumed_from_step`` is None for a training that ran in one go."""

    train: Wall
    machine: MachineFacts
    git: Git
    peak_memory: PeakMemory
    seconds: Seconds
    checkpoints: Checkpoints
    resumed_from_step: int | None
    tokens_this_time: int | None


class AnswerTimes(TypedDict):
    """Speed of one model: seconds of single requests, and tokens per second in batches."""

    latency_median_s: float | None
    latency_p95_s: float | None
    latency_requests: int | None
    tokens_per_second: float | None
    batch_size: int | None


class EvaluationInfo(TypedDict):
    """evaluation_info.json, by model."""

    machine: MachineFacts
    models: dict[str, AnswerTimes]


RUN_INFO = FactFile(RunInfo)
NOTHING_MEASURED = shaped({}, RunInfo)
EVALUATION_INFO = FactFile(EvaluationInfo)
