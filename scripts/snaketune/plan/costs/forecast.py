"""Steps, hours, dollars and disk of one run, from its work and its throughput."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from snaketune.facts.data_facts import CountedRows
from snaketune.facts.model_facts import PreparedModel
from snaketune.plan.costs.budget import SECONDS_PER_HOUR, Budget, RunInputs, budget_of, disk_gb
from snaketune.plan.costs.past_runs import Measurement
from snaketune.plan.costs.throughput import Rate
from snaketune.plan.devices.target import Target
from snaketune.plan.memory.memory import DTYPE_BYTES
from snaketune.plan.workload import Work, checkpoint_gb, trained_gb
from snaketune.settings.operational import Operational
from snaketune.settings.planning_slice import PlanningSlice

WRITING_GB_PER_SECOND = 0.5
"""Assumed write speed of checkpoints if none was measured; that of a SATA disk."""
STORED_WIDTH = {"F32": 4, "F16": 2, "BF16": 2, **DTYPE_BYTES}


@dataclass(frozen=True, slots=True)
class Forecast:
    """A run's budget; hours and dollars in it mean nothing where ``is_timed`` is false."""

    inputs: RunInputs
    budget: Budget
    is_timed: bool
    save_seconds: float
    saves_origin: str
    evaluations: int


def forecast(
    cfg: PlanningSlice,
    settings: Operational,
    work: Work,
    target: Target,
    rate: Rate,
    measured: Measurement | None,
) -> Forecast:
    """Return the forecast of the run on the target device.

    Args:
        cfg: the ``train`` section and others.
        settings: operational settings of training: when it saves.
        work: the run.
        target: its device.
        rate: its throughput.
        measured: what earlier runs of this kind measured.
    """
    train, per_second = cfg["train"], rate.tokens_per_second or 1.0
    simple = RunInputs(
        rows=work.rows,
        tokens=work.tokens,
        tokens_per_second=per_second,
        measured=True,  # estimated throughput includes the utilisation, as measured throughput does
        epochs=train["num_train_epochs"] if train["max_steps"] < 0 else 1.0,
        max_steps=train["max_steps"],
        micro_batch=train["per_device_train_batch_size"],
        accumulation=train["gradient_accumulation_steps"],
        gpus=target.gpus,
        price_per_gpu_hour=target.price.usd,
    )
    # Two passes: the number of evaluations and the interval of checkpoints depend on the steps, and the final budget on
    # both.
    whole = budget_of(simple)
    save_seconds = checkpoint_gb(work) / WRITING_GB_PER_SECOND
    if measured and measured.save_seconds is not None:
        save_seconds = measured.save_seconds
    evaluations = whole.steps // train["eval_steps"] if train["eval_steps"] and work.eval_tokens else 0
    seconds = evaluations * evaluation_seconds(work, per_second * target.gpus, measured)
    start = measured.start_seconds if measured else reference_seconds(work, per_second) / target.gpus
    inputs = RunInputs(
        **{
            name: getattr(simple, name)
            for name in RunInputs.__slots__
            if name not in ("save_steps", "save_seconds", "evaluation_seconds", "preparation_seconds")
        },
        save_steps=save_interval(settings, whole, save_seconds if rate.tokens_per_second else None),
        save_seconds=save_seconds,
        evaluation_seconds=seconds,
        preparation_seconds=start,
    )
    saves = "measured" if measured and measured.save_seconds is not None else "estimated"
    return Forecast(inputs, budget_of(inputs), rate.tokens_per_second is not None, save_seconds, saves, evaluations)


def evaluation_seconds(work: Work, tokens_per_second: float, measured: Measurement | None) -> float:
    """Return the seconds of one held-out evaluation: measured, else from the forward share of training's FLOPs."""
    if measured and measured.evaluation_rate:
        return work.eval_tokens / measured.evaluation_rate
    return work.eval_tokens * forward_share(work) / tokens_per_second


def forward_share(work: Work) -> float:
    """Return the fraction of training's FLOPs that a forward pass alone takes."""
    return 1 / 3 if work.is_full else 1 / 2


def reference_seconds(work: Work, tokens_per_second: float) -> float:
    """Return the seconds of passes without a gradient: the reference of dpo and kto, and the KL term of kto.

    The reference is one forward pass over the data; kto has one more over as many mismatched answers, and repeats that
    with the policy in training.
    """
    passes = {"dpo": 1, "kto": 3}.get(work.method, 0)
    return passes * work.tokens * forward_share(work) / tokens_per_second


def save_interval(settings: Operational, whole: Budget, save_seconds: float | None) -> int:
    """Return the steps between checkpoints, 0 if unknown; ``auto`` is what training will choose (Young and Daly)."""
    if settings["save_steps"] != "auto":
        return settings["save_steps"]
    if save_seconds is None:
        return 0
    seconds_per_step = whole.train_hours * SECONDS_PER_HOUR / whole.steps
    # The formula of train.checkpoints.checkpoint_schedule.best_interval, repeated because that module imports torch.
    interval = sqrt(2 * save_seconds * settings["hours_between_interruptions"] * SECONDS_PER_HOUR)
    return max(1, round(interval / seconds_per_step)) if seconds_per_step else whole.steps


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """Gigabytes (10⁹ bytes) on disk; the files that are there already are measured, the others estimated."""

    checkpoints: float
    trained: float
    """The adapter, or the weights."""
    merged: float
    there: float
    """Base model and packed rows."""

    @property
    def to_write(self) -> float:
        """Return the most that the run still writes."""
        return self.checkpoints + self.trained + self.merged

    @property
    def total(self) -> float:
        """Return the disk space that the run needs in all."""
        return self.to_write + self.there


def disk_needed(
    cfg: PlanningSlice,
    settings: Operational,
    work: Work,
    model: PreparedModel,
    pack: CountedRows,
) -> DiskNeed:
    """Return the disk that a run needs: kept checkpoints and one being written, its results, what it reads."""
    width = STORED_WIDTH.get(model.get("dtype") or "", 2)
    there = sum(file["bytes"] for files in (model["files"], pack["files"]) for file in files.values()) / 1e9
    if model.get("weights_digest", "") is None:
        there += work.parameters * width / 1e9
    return DiskNeed(
        checkpoints=disk_gb(checkpoint_gb(work), settings["save_total_limit"], 0.0, 0.0),
        trained=trained_gb(work),
        merged=work.parameters * width / 1e9 if cfg["merge"]["enabled"] else 0.0,
        there=there,
    )


def device_block(target: Target) -> dict[str, Any]:
    """Return the device with its price."""
    device = target.hardware
    return {
        "id": device.id,
        "title": device.title,
        "gpus": target.gpus,
        "is_here": target.is_here,
        "memory_gb": target.memory_gb,
        "price_per_gpu_hour": target.price.usd,
        "price_source": target.price.source,
        "watts": device.watts,
    }


def work_block(work: Work) -> dict[str, Any]:
    """Return the sizes of the run: rows, tokens, parameters, method."""
    names = ("rows", "documents", "tokens", "squares", "row_length", "eval_tokens", "parameters", "trained")
    found = {name: getattr(work, name) for name in names}
    found |= {"checkpoint_every": work.setting.checkpoint_every, "fit_method": fit_method(work)}
    if work.generated:
        found |= {"answers": work.generated.answers, "generated_tokens": work.generated.tokens}
    return found


def fit_method(work: Work) -> str:
    """Return the method of a run as the fit table names it."""
    return "full" if work.is_full else {"none": "lora"}.get(work.setting.quantization, work.setting.quantization)


def overheads_block(seen: Forecast) -> dict[str, Any]:
    """Return the time spent on checkpoints, evaluations and starting."""
    budget, timed = seen.budget, seen.is_timed
    return {
        "save_steps": seen.inputs.save_steps or None,
        "saves": budget.saves if seen.inputs.save_steps else None,
        "seconds_per_save": seen.save_seconds,
        "saves_origin": seen.saves_origin,
        "checkpoint_hours": budget.checkpoint_hours if timed else None,
        "checkpoint_share": budget.checkpoint_share if timed else None,
        "evaluations": seen.evaluations,
        "evaluation_hours": budget.evaluation_hours if timed else None,
        "start_hours": budget.preparation_hours if timed else None,
    }


DIGITS = 6


def rounded(value: Any) -> Any:
    """Return ``value`` with its floats rounded to six significant digits: further digits are noise."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value
