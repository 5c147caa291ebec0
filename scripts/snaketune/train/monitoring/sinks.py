"""Optional sinks that also receive the lines of metrics.jsonl: TensorBoard, trackio, Weights & Biases."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from snaketune.core.errors import ConfigError
from snaketune.settings.training_slices import TrainingSlice

SINK_PACKAGES = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}


class Sink(Protocol):
    """A receiver of metric lines."""

    def write(self, line: dict[str, Any]) -> None:
        """Receive one line."""
        ...

    def close(self) -> None:
        """Send buffered lines."""
        ...


def require_sinks(names: Sequence[str]) -> None:
    """Check that what ``train.report_to`` names is installed.

    Raises:
        ConfigError: naming the package that is missing.
    """
    for name in names:
        if importlib.util.find_spec(SINK_PACKAGES[name]) is None:
            raise ConfigError(
                f"train.report_to: {name} is not installed: run `pip install {SINK_PACKAGES[name]}` or leave it out;"
                " metrics.jsonl has the same numbers."
            )


def open_sinks(names: Sequence[str], work: Path, config: TrainingSlice) -> list[Sink]:
    """Open the sinks in ``names`` for the run whose private folder is ``work``; its name is the run's identity."""
    makers: dict[str, Callable[[Path, TrainingSlice], Sink]] = {
        "tensorboard": TensorBoard,
        "trackio": Trackio,
        "wandb": WeightsAndBiases,
    }
    return [makers[name](work, config) for name in names]


def numbers_of(line: dict[str, Any]) -> dict[str, float]:
    """Return the values of a metric line that can be plotted."""
    return {name: value for name, value in line.items() if name != "step" and isinstance(value, int | float)}


class TensorBoard:
    """Event files in ``tensorboard/`` of the run's private folder."""

    def __init__(self, work: Path, config: TrainingSlice):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(work / "tensorboard")
        print(f"TensorBoard: tensorboard --logdir {work / 'tensorboard'}", flush=True)

    def write(self, line: dict[str, Any]) -> None:
        """Write one point of each curve."""
        for name, value in numbers_of(line).items():
            self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


class Trackio:
    """A local trackio project named ``snaketune``."""

    def __init__(self, work: Path, config: TrainingSlice):
        import trackio

        self._trackio = trackio
        trackio.init(project="snaketune", name=work.name, config=config, resume="allow")

    def write(self, line: dict[str, Any]) -> None:
        """Log one line."""
        self._trackio.log(numbers_of(line), step=line["step"])

    def close(self) -> None:
        """End the trackio run."""
        self._trackio.finish()


class WeightsAndBiases:
    """A W&B run in the project ``snaketune``; its destination follows wandb's own environment variables."""

    def __init__(self, work: Path, config: TrainingSlice):
        import wandb

        self._wandb = wandb
        wandb.init(project="snaketune", id=work.name, name=work.name, dir=str(work), config=config, resume="allow")

    def write(self, line: dict[str, Any]) -> None:
        """Log one line."""
        self._wandb.log(numbers_of(line), step=line["step"])

    def close(self) -> None:
        """End the W&B run."""
        self._wandb.finish()
