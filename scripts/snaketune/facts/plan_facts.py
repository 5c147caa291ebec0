"""plan.json: memory, time and cost of a run, each number with its origin (measured, estimated, given or unknown)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

from snaketune.facts.fact_files import FactFile
from snaketune.facts.plan_table_facts import (
    AdviceRow,
    Afterwards,
    CostRow,
    FitRow,
    LadderRow,
    Ownership,
    PresetRow,
    SensitivityRow,
    StrategyRow,
)
from snaketune.facts.probe_facts import Autotune
from snaketune.facts.shapes import Moment


class About(TypedDict):
    """Metadata of a number: its origin and its range."""

    origin: str
    source: str
    unit: str | None
    low: float | None
    high: float | None


class AboutNumbers(TypedDict):
    """The origins of the public numbers of a plan."""

    tokens_total: About
    steps: About
    train_hours: About
    hours: About
    cost_usd: About
    total_usd: About
    memory_gb: About
    disk_gb: About


class PlannedRate(TypedDict):
    """Real tokens per second of one device."""

    tokens_per_second: float | None
    origin: str
    source: str
    low: float | None
    high: float | None
    flops_per_token: float | None


class PlannedDevice(TypedDict):
    """The device that the run is planned on, with its price in US dollars; ``is_here`` is None if not known."""

    id: str
    title: str
    gpus: int
    is_here: bool | None
    memory_gb: float | None
    price_per_gpu_hour: float | None
    price_source: str
    watts: float | None


LimitName = Literal["max_hours", "max_cost_usd"]


class PlanLimits(TypedDict):
    """Limits of the configuration."""

    max_cost_usd: float | None
    max_hours: float | None


class Overheads(TypedDict):
    """Costs in addition to training: checkpoints, evaluations and start-up."""

    save_steps: int | str | None
    saves: int | None
    seconds_per_save: float | None
    saves_origin: str
    checkpoint_hours: float | None
    checkpoint_share: float | None
    evaluations: int
    evaluation_hours: float | None
    start_hours: float | None


class WorkFacts(TypedDict):
    """The work of a run."""

    rows: int
    documents: int
    tokens: int
    row_length: int
    parameters: int
    trained: int
    squares: int | None
    eval_tokens: int | None
    checkpoint_every: int | None
    fit_method: str
    answers: int | None
    generated_tokens: int | None


class MemoryParts(TypedDict):
    """The memory of one device by what holds it, in GB; all None where it could not be traced."""

    weights: float | None
    adapter: float | None
    gradients: float | None
    optimizer: float | None
    activations: float | None
    head: float | None
    workspace: float | None
    context: float | None
    cache: float | None
    origin: str | None


class HostMemory(TypedDict):
    """The memory of the host that a run takes, in GB."""

    gb: float | None
    available_gb: float | None
    origin: str
    source: str


class AnswerForecast(TypedDict):
    """Cost of a number of answers of the tuned model."""

    answers: int
    seconds: float | None
    cost_usd: float | None
    origin: str
    source: str


class DiskFacts(TypedDict):
    """Disk space that a run needs and free space, in GB."""

    checkpoints: float
    merged: float
    trained: float
    there: float
    to_write: float
    free: float


class Nearest(TypedDict):
    """Settings that would bring a run under a limit, in words; None where it is under it."""

    hours: str | None
    memory: str | None


class RemedyFacts(TypedDict):
    """Settings that make a run fit its device."""

    changes: dict[str, Any]
    needs_gb: float | None


class Preparation(TypedDict):
    """Seconds that the stages before took, by their name."""

    seconds: dict[str, float]


class Plan(TypedDict):
    """plan.json; hours are from start to end but for ``train_hours``, dollars are for all GPUs, GB are 10^9 bytes."""

    tokens_total: int
    steps: int
    train_hours: float | None
    hours: float | None
    cost_usd: float | None
    total_usd: float | None
    memory_gb: float | None
    least_memory_gb: float | None
    disk_gb: float | None
    disk: DiskFacts
    nearest: Nearest
    has_weights: bool | None
    autotune: Autotune | None
    finishes_at: Moment | None
    planned_at: Moment
    about: AboutNumbers
    rate: PlannedRate
    speed: dict[str, Any]
    device: PlannedDevice
    limits: PlanLimits
    overheads: Overheads
    work: WorkFacts
    memory: MemoryParts
    ram: HostMemory | None
    answers: AnswerForecast | None
    remedy: RemedyFacts | None
    measure: str | None
    preparation: Preparation
    afterwards: list[Afterwards]
    advice: list[AdviceRow]
    costs: list[CostRow]
    fit: list[FitRow]
    ladder: list[LadderRow]
    ownership: Ownership
    presets: list[PresetRow]
    sensitivity: list[SensitivityRow]
    strategies: list[StrategyRow]
    notes: list[str]
    stops: NotRequired[list[str]]


class PlannedSteps(TypedDict):
    """The fields for readers that only need the length of a training."""

    steps: float | None


class PastRate(TypedDict):
    """The fields of ``rate`` for later plans."""

    flops_per_token: float | None


class PastOverheads(TypedDict):
    """The fields of ``overheads`` for later plans."""

    evaluations: int | None


class PastWork(TypedDict):
    """The fields of ``work`` for later plans."""

    parameters: int | None
    eval_tokens: int | None


class PastPlan(TypedDict):
    """The fields for later plans, which take what the run measured: ``speed`` is the key of comparable runs."""

    speed: dict[str, Any]
    rate: PastRate
    overheads: PastOverheads
    work: PastWork


class PlanStops(TypedDict):
    """The sentences with which training refuses to start."""

    stops: list[str]


PLAN = FactFile(Plan)
PLAN_STOPS = FactFile(PlanStops)
PAST_PLAN = FactFile(PastPlan)
PLANNED_STEPS = FactFile(PlannedSteps)


def number_of(plan: Plan, name: str) -> float | None:
    """Return one of the public numbers of a plan by its name, as ``hours`` or ``memory_gb``; None if not known."""
    return cast(Mapping[str, float | None], plan).get(name)


def about_number(plan: Plan, name: str) -> About:
    """Return where one of the public numbers of a plan comes from."""
    return cast(Mapping[str, About], plan["about"])[name]


def planned_steps(folder: Path) -> int | None:
    """Return the optimizer steps that the plan in the folder of a run has; None without one."""
    path = folder / "plan.json"
    steps = PLANNED_STEPS.read(path)["steps"] if path.is_file() else None
    return round(steps) if steps else None
