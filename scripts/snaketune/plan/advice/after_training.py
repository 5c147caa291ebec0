"""Costs besides training: evaluation, saving, upload and generation, and the memory of the host."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from snaketune.facts.data_facts import CountedRows
from snaketune.facts.measured import AnswerTimes
from snaketune.facts.model_facts import PreparedModel
from snaketune.plan.costs.forecast import WRITING_GB_PER_SECOND, DiskNeed, Forecast, forward_share
from snaketune.plan.devices.target import Target
from snaketune.plan.workload import Work
from snaketune.settings.planning_slice import PlanningSlice

UPLOAD_GB_PER_SECOND = 0.0125
"""100 Mbit/s, a common upload rate at home and in small offices; assumed, not measured."""
READING_SHARE = 0.6
"""Fraction of the memory bandwidth that a device reaches when it generates one answer at a time; assumed."""
BYTES_OF_WEIGHT = {"none": 2.0, "8bit": 1.0, "4bit": 0.55}
LIBRARIES_GB = 2.0
"""Resident memory of Python with torch and transformers; on a GPU including the driver's share."""
LOADER_GB = 0.3
ANSWERS_PLANNED = 1000


@dataclass(frozen=True, slots=True)
class GenerationSpeed:
    """Generation speed of a model: tokens of a mean answer, and tokens per second; None is unknown."""

    tokens: float | None
    tokens_per_second: float | None
    origin: str
    source: str


def answering_of(work: Work, target: Target, pack: CountedRows, timings: Sequence[AnswerTimes]) -> GenerationSpeed:
    """Return the tuned model's generation speed on a device: measured by earlier runs of its size, else estimated.

    The estimate takes one answer at a time as bound by memory: every token reads every weight once. Batches are several
    times faster.

    Args:
        work: the run.
        target: its device.
        pack: facts of the packed rows, for the length of an answer.
        timings: ``models.tuned`` of the evaluations of earlier runs there, the newest last.
    """
    train = pack["splits"]["train"]
    trained, documents = train.get("trainable_tokens"), train["documents"]
    tokens = trained / documents if trained and documents else None
    measured = [rate for one in timings if (rate := one["tokens_per_second"])]
    if measured:
        return GenerationSpeed(
            tokens, measured[-1], "measured", "an earlier evaluation here, in batches, with transformers"
        )
    bandwidth = target.hardware.bandwidth
    if not bandwidth:
        return GenerationSpeed(tokens, None, "unknown", "no evaluation measured it here")
    read = work.parameters * BYTES_OF_WEIGHT[work.setting.quantization] / 1e9
    source = "one answer at a time, 60% of the memory's bandwidth; batches are several times faster"
    return GenerationSpeed(tokens, bandwidth * READING_SHARE / read, "estimated", source)


def answers_block(found: GenerationSpeed, target: Target) -> dict[str, Any]:
    """Return seconds and US dollars for a thousand answers."""
    rate, tokens, price = found.tokens_per_second, found.tokens, target.price.usd
    seconds = ANSWERS_PLANNED * tokens / rate if rate and tokens else None
    return {
        "answers": ANSWERS_PLANNED,
        "tokens_per_answer": tokens,
        "tokens_per_second": rate,
        "seconds": seconds,
        "cost_usd": None if seconds is None or price is None else seconds / 3600 * price,
        "origin": found.origin if seconds is not None else "unknown",
        "source": found.source,
    }


def after_training(
    cfg: PlanningSlice, work: Work, seen: Forecast, disk: DiskNeed, found: GenerationSpeed, held_out: int
) -> list[dict[str, Any]]:
    """Return the seconds of the stages after training: evaluation of all models, merging and saving, an upload.

    Args:
        cfg: the ``evaluate`` and ``merge`` sections.
        work: the run.
        seen: its forecast.
        disk: the disk that it needs.
        found: its generation speed.
        held_out: held-out documents.
    """
    models = 3 if cfg["merge"]["enabled"] else 2
    result = disk.merged or disk.trained
    return [
        {
            "what": f"Evaluating {models} models",
            "seconds": _evaluation(cfg, work, seen, found, models, held_out),
            "origin": "estimated",
        },
        {
            "what": "Merging and saving" if disk.merged else "Saving",
            "seconds": 2 * result / WRITING_GB_PER_SECOND,
            "origin": "estimated",
        },
        {
            "what": f"Uploading {_size(result)} at 100 Mbit/s",
            "seconds": result / UPLOAD_GB_PER_SECOND,
            "origin": "estimated",
        },
    ]


def _size(gigabytes: float) -> str:
    return f"{gigabytes:.1f} GB" if gigabytes >= 0.1 else f"{gigabytes * 1000:.3g} MB"


def _evaluation(
    cfg: PlanningSlice, work: Work, seen: Forecast, found: GenerationSpeed, models: int, held_out: int
) -> float | None:
    asked = min(cfg["evaluate"]["max_samples"], held_out)
    if not seen.is_timed or (asked and not (found.tokens_per_second and found.tokens)):
        return None
    forward = work.eval_tokens * forward_share(work) / seen.inputs.tokens_per_second
    writing = asked * found.tokens / found.tokens_per_second if asked else 0.0  # type: ignore[operator]
    return models * (forward + writing)


def host_memory(
    work: Work, target: Target, memory_gb: float | None, model: PreparedModel, workers: int, ram_gb: float
) -> dict[str, Any]:
    """Return the host memory that a run needs: on a CPU that of training, else that of libraries and loading.

    Args:
        work: the run.
        target: its device.
        memory_gb: planned memory of the device.
        model: facts of the base model, for the largest of its files, which is in memory while it is loaded.
        workers: loader processes.
        ram_gb: of this machine.
    """
    sizes = [file["bytes"] / 1e9 for name, file in model["files"].items() if name.endswith(".safetensors")]
    largest = max(sizes, default=work.parameters * 2 / 1e9)
    if target.is_cpu:
        needs = None if memory_gb is None else memory_gb + LOADER_GB * workers
        source = "the memory of training, which is the host's, and 0.3 GB a loader process"
    else:
        needs = LIBRARIES_GB + largest + LOADER_GB * workers
        source = "libraries 2 GB, the largest file of weights while it is loaded, 0.3 GB a loader process"
    return {
        "gb": needs,
        "available_gb": ram_gb if target.is_here else None,
        "origin": "unknown" if needs is None else "estimated",
        "source": source,
    }
