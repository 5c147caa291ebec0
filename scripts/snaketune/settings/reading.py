"""What reading, tokenising and inspecting get of the configuration."""

from typing import TypedDict

from snaketune.settings.data import Data
from snaketune.settings.model import Model
from snaketune.settings.tokens import Tokens


class Method(TypedDict, total=False):
    """The part of ``train`` that data depend on; absent for the usual method."""

    method: str


class ReadingSlice(TypedDict, total=False):
    """The slice of ``read_records``."""

    data: Data
    train: Method


class TokenizingSlice(TypedDict, total=False):
    """The slice of ``tokenize_records``."""

    tokens: Tokens
    train: Method


class InspectionSlice(ReadingSlice, total=False):
    """What ``inspect`` shows records with."""

    tokens: Tokens
    model: Model


class StageSettings(TypedDict):
    """The operational settings of a stage that prepares data: they never change a result."""

    scratch: str | None
    threads: int
    work: str
