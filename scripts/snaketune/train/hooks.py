"""Behaviour injected into a trainer: sealing of checkpoints, stop requests, and the process group."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.train.distributed.process_group import ALONE as TEAM_OF_ONE
from snaketune.train.distributed.process_group import ProcessGroup

Seal = Callable[[Path, Path, dict[str, Any]], None]


def rename(partial: Path, target: Path, facts: dict[str, Any]) -> None:
    """Move a written checkpoint to its final name, without a manifest: enough if nothing resumes from it."""
    partial.replace(target)


def never() -> bool:
    """Return False: the training is never asked to stop."""
    return False


@dataclass(frozen=True, slots=True)
class Hooks:
    """Injected behaviour of a trainer; the defaults suffice for a benchmark.

    Attributes:
        seal: moves a written checkpoint to its final name and records the given facts with it.
        stop_requested: tells whether training should save and end.
        saved: called with the seconds that writing a checkpoint took.
        process_group: the processes that train together.
    """

    seal: Seal = rename
    stop_requested: Callable[[], bool] = never
    saved: Callable[[float], None] | None = None
    process_group: ProcessGroup = TEAM_OF_ONE


NO_HOOKS = Hooks()
