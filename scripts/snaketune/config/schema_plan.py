"""The plan section of the configuration: what a run may cost, and on what it is planned."""

from typing import Annotated

from pydantic import Field

from snaketune.config.schema_model import Section


class PlanConfig(Section):
    """What a run will cost, before it starts. Nothing here but num_gpus can change a training."""

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
        description="Machines that they are in, as many in each; more than one needs Slurm (docs/scaling.md).",
    )
    probe: bool = Field(
        False,
        description="Measure before planning: a short real training with the run's own rows on the machine that plans. "
        "It takes up to some minutes, is kept for every run that it holds for, and replaces the estimated rate.",
    )
    autotune: bool = Field(
        False,
        description="With the probe, also measure other rows at a time, recomputation and loader processes at the same "
        "effective batch. The fastest is advised, never set.",
    )
    without_weights: bool = Field(
        False,
        description="Plan a model folder or repository by its config.json and tokenizer alone: no weights are needed "
        "or downloaded. Such a run cannot train.",
    )
    price_per_gpu_hour: float | None = Field(
        None, ge=0, description="US dollars; null takes the price of the catalogue, which may be unknown."
    )
    utilization: float = Field(
        0.4,
        gt=0,
        le=1,
        description="Share of the peak in the catalogue that training is expected to reach, 0.4 by published runs. A "
        "rate that was measured here is never multiplied by it.",
    )
    max_cost_usd: float | None = Field(None, gt=0, description="A run that is planned to cost more does not start.")
    max_hours: float | None = Field(None, gt=0, description="A run that is planned to take longer does not start.")
    owned: bool = Field(
        False, description="The device is your own: an hour costs its electricity unless price_per_gpu_hour is given."
    )
    electricity_usd_per_kwh: float = Field(0.15, ge=0, description="What a kilowatt-hour costs you, in US dollars.")
    trainings_per_year: int = Field(12, ge=1, description="Runs like this one in a year, for the annual cost.")
    years_of_use: float = Field(3.0, gt=0, description="Years that bought hardware is used, for the annual cost.")
    other_costs_usd: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {},
        description="What else a run costs you, by name, e.g. {labelling: 400, evaluation: 50}; max_cost_usd counts "
        "it.",
    )
    domain_shift: bool = Field(
        False, description="The data are far from what the base model knows (a new language, say): advice heeds it."
    )
