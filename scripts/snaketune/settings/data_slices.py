"""The parts of the configuration that the data stages receive."""

from typing import TypedDict

from snaketune.settings.data_section import DataSection
from snaketune.settings.dedupe_section import DedupeSection
from snaketune.settings.model_section import ModelSection
from snaketune.settings.split_section import SplitSection
from snaketune.settings.tokens_section import TokensSection


class TrainMethod(TypedDict, total=False):
    """The part of ``train`` that the data depend on; absent for supervised fine-tuning."""

    method: str


class ReadingSlice(TypedDict, total=False):
    """The slice of ``read_records``."""

    data: DataSection
    train: TrainMethod


class DedupeSlice(TypedDict, total=False):
    """The slice of ``dedupe_records``."""

    dedupe: DedupeSection


class Mixing(TypedDict):
    """Weights of the sources, in their order, and the seed that draws what is left out or repeated."""

    weights: list[float]
    seed: int


class SplitSlice(TypedDict, total=False):
    """The slice of ``split_records``; ``evaluations`` have the path and digest of each file to keep out of training."""

    split: SplitSection
    evaluations: list[dict[str, str]]
    mixing: Mixing


class LengthSlice(TypedDict, total=False):
    """The slice of ``rightsize`` and of ``pack_rows``."""

    tokens: TokensSection


class TokenizingSlice(TypedDict, total=False):
    """The slice of ``tokenize_records``."""

    tokens: TokensSection
    train: TrainMethod


class InspectionSlice(ReadingSlice, total=False):
    """The slice that ``inspect`` needs to render records."""

    tokens: TokensSection
    model: ModelSection


class StageSettings(TypedDict):
    """The operational settings of a stage that prepares data: they never change a result."""

    scratch: str | None
    threads: int
    work: str
