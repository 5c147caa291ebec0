"""The section `plan` as stages get it. Generated from the configuration's models: run `make generate`."""

from typing import TypedDict


class PlanSection(TypedDict, total=False):
    """The keys of `plan` that decide results; a slice has those its stage depends on."""

    gpu: str
    num_gpus: int
    probe: bool
    autotune: bool
    without_weights: bool
    price_per_gpu_hour: float | None
    utilization: float
    max_cost_usd: float | None
    max_hours: float | None
    owned: bool
    electricity_usd_per_kwh: float
    trainings_per_year: int
    years_of_use: float
    other_costs_usd: dict[str, float]
    domain_shift: bool
