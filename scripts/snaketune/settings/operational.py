"""Settings that change no result. Generated from the configuration's models: run `make generate`."""

from typing import Literal, TypedDict


class Operational(TypedDict, total=False):
    """Operational settings of a training: devices, loading of rows, checkpoints, limits."""

    dataloader_num_workers: int
    dataloader_prefetch_factor: int | None
    dataloader_pin_memory: bool
    save_steps: Literal["auto"] | int
    hours_between_interruptions: float
    save_total_limit: int
    max_loss_increase: float | None
    report_to: list[Literal["tensorboard", "trackio", "wandb"]]
    scratch: str | None
    num_nodes: int
