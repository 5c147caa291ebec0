"""What a trainer is given from outside: how checkpoints get their final name, and who may ask it to stop."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.train.distributed.process_group import ALONE as TEAM_OF_ONE
from snaketune.train.distributed.process_group import ProcessGroup

Seal = Callable[[Path, Path, dict[str, Any]], None]


def rename(partial: Path, target: Path, facts: dict[str, Any]) -> None:
    """Move a written checkpoint to its final name: enough where nothing will resume from it."""
    partial.replace(target)


def never() -> bool:
    """Return False: nobody asks the training to stop."""
    return False


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a trainer is given from outside; the defaults do for a benchmark.

    Attributes:
        seal: moves a written checkpoint to its final name, with the facts it is to keep.
        stop_requested: tells whether training should save and end.
        saved: called with the seconds that a checkpoint took.
        process_group: the processes that train together.
    """

    seal: Seal = rename
    stop_requested: Callable[[], bool] = never
    saved: Callable[[float], None] | None = None
    process_group: ProcessGroup = TEAM_OF_ONE


ALONE = Hooks()
