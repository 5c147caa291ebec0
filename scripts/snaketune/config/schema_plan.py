"""The plan section of the configuration: what a run may cost, and on what it is planned."""

from typing import Annotated

from pydantic import Field

from snaketune.config.schema_model import Section


class PlanConfig(Section):
    """What a run will cost, before it starts. Only num_gpus affects training."""

    gpu: str = Field(
        "auto",
        min_length=1,
        description="Device to plan for: an id or name in config/hardware.yaml; `auto` is the GPU of this machine, or "
        "its CPU.",
    )
    num_gpus: int = Field(1, ge=1, le=4096, description="GPUs that train together.")
    num_nodes: int = Field(
        1,
        ge=1,
        le=512,
        description="Nodes that hold them, with equal numbers; more than one needs Slurm (docs/scaling.md).",
    )
    probe: bool = Field(
        False,
        description="Measure before planning: a short real training with the run's own rows on this machine. It takes "
        "up to a few minutes, is reused for every run that it applies to, and replaces the estimated throughput.",
    )
    autotune: bool = Field(
        False,
        description="With the probe, also measure other micro-batches, recomputation and loader processes at the same "
        "effective batch. The fastest is recommended, never set.",
    )
    without_weights: bool = Field(
        False,
        description="Plan a model folder or repository by its config.json and tokenizer alone: no weights are needed "
        "or downloaded. Such a run cannot train.",
    )
    price_per_gpu_hour: float | None = Field(
        None, ge=0, description="US dollars; null uses the catalogue price, which may be unknown."
    )
    utilization: float = Field(
        0.4,
        gt=0,
        le=1,
        description="Share of the peak in the catalogue that training is expected to reach; published runs reach about "
        "0.4. A throughput measured on this machine is never multiplied by it.",
    )
    max_cost_usd: float | None = Field(None, gt=0, description="A run that is planned to cost more does not start.")
    max_hours: float | None = Field(None, gt=0, description="A run that is planned to take longer does not start.")
    owned: bool = Field(
        False, description="The device is yours: an hour costs its electricity unless price_per_gpu_hour is given."
    )
    electricity_usd_per_kwh: float = Field(0.15, ge=0, description="Price of a kilowatt-hour, in US dollars.")
    trainings_per_year: int = Field(12, ge=1, description="Similar runs per year, for the annual cost.")
    years_of_use: float = Field(3.0, gt=0, description="Years of use of bought hardware, for the annual cost.")
    other_costs_usd: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {},
        description="Other costs of a run in US dollars, by name, e.g. {labelling: 400, evaluation: 50}; max_cost_usd "
        "includes them.",
    )
    domain_shift: bool = Field(
        False,
        description="The data are far from what the base model knows (a new language, for example), which the advice "
        "takes into account.",
    )
