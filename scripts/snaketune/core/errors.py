"""Errors that a user can act on: one sentence with the place, the value and the fix."""

import os
import sys
from collections.abc import Mapping
from errno import ENOSPC
from typing import Any


class SnaketuneError(Exception):
    """Base of all errors caused by input, configuration or the machine rather than by a defect.

    ``cure`` holds the settings that the suggested fix would make, for programs that try it.
    """

    exit_code = 1
    cure: Mapping[str, Any] | None = None


class ConfigError(SnaketuneError):
    """The configuration asks for something impossible or unknown."""

    exit_code = 2


class DataError(SnaketuneError):
    """The data cannot be used as given."""

    exit_code = 3


class NotJsonError(DataError, ValueError):
    """A file that should hold JSON does not."""


class PlanError(SnaketuneError):
    """The run does not fit the budget or the machine."""

    exit_code = 4


class TrainingError(SnaketuneError):
    """Training, evaluation or merging ended in a state that must not be published."""

    exit_code = 5


class DiskFullError(SnaketuneError, OSError):
    """A disk has no room for a write; an OSError, so that callers who can do without the file may go on."""

    exit_code = 6
    errno = ENOSPC
    strerror = os.strerror(ENOSPC)


def say(sentence: str) -> None:
    """Print a note for the user on standard error."""
    print(f"Note: {sentence}", file=sys.stderr, flush=True)
