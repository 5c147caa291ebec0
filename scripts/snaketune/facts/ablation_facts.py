"""ablate.json: the effect of each optimisation, alone and together; seconds, and real tokens per second."""

from typing import NotRequired, TypedDict, final

from snaketune.facts.fact_files import FactFile


@final
class CaseFacts(TypedDict):
    """A measured case: its throughput over the rounds, and what it held and lost; ``spread`` is relative."""

    tokens_per_second: float
    rates: list[float]
    spread: float
    held_out_loss: float | None
    peak_memory_bytes: int
    save_seconds: float
    waited_share: float
    first_warm_up_seconds: float
    warm_up_seconds: float
    rows: int
    accumulation: int


@final
class FailedCase(TypedDict):
    """A case without a measurement, and why."""

    failed: str


class LossChange(TypedDict):
    """The change of the held-out loss in nats per token with its range over the rounds; None without held-out data."""

    loss_change: float | None
    loss_change_low: float | None
    loss_change_high: float | None


class FactorWords(TypedDict):
    """A factor, the configuration it was measured from (``where``), and its two settings in words."""

    factor: str
    where: str
    off_words: str
    on_words: str


@final
class FailedEffect(FactorWords):
    """A factor that could not be measured, and why."""

    failed: str


class EpochEffect(TypedDict):
    """The effect on one epoch: new over old speed, the fraction of the time saved, and what that is."""

    speed_up: float
    time_reduction: float
    seconds_saved: float
    usd_saved: float | None


@final
class TrainingEffect(FactorWords, EpochEffect, LossChange):
    """The effect of a factor of training itself, with both cases and the range over the rounds."""

    off: CaseFacts
    on: CaseFacts
    speed_up_low: float
    speed_up_high: float
    verdict: str
    predicted_speed_up: NotRequired[float | None]


@final
class OutsideEffect(FactorWords, EpochEffect):
    """The effect of a factor outside training, computed from what was measured."""


@final
class FailedWhole(TypedDict):
    """Why the whole is unknown: one of the ends could not be measured."""

    failed: str


@final
class WholeEffect(EpochEffect, LossChange):
    """All factors together on one epoch, next to the product of the single ones."""

    seconds_slow: float
    seconds_fast: float
    training_speed_up: float
    speed_up_low: float
    speed_up_high: float
    predicted_speed_up: float | None
    product_of_parts: float
    sentence: str


class TokenisingRate(TypedDict):
    """Tokenising in one process, if it could be measured."""

    tokens_per_second: NotRequired[float]


class ReadingRates(TypedDict):
    """Throughput of the disks in bytes per second; absent where staging was not measured."""

    source_bytes_per_second: NotRequired[float]
    copy_bytes_per_second: NotRequired[float]


class OutsideRates(TypedDict):
    """What the factors outside training are computed from."""

    tokenising: TokenisingRate
    reading: ReadingRates


class AblatedEpoch(TypedDict):
    """One epoch of the run: real tokens and optimizer steps."""

    tokens: int
    steps: int


class AblationMachine(TypedDict):
    """The device and the package versions that the figures hold for."""

    device: str
    versions: dict[str, str]


class NotMeasured(TypedDict):
    """A factor that cannot be shown on this machine or with this run, and why."""

    title: str
    reason: str


class AblationFacts(TypedDict):
    """ablate.json; ``ends`` are the slow and the fast configuration, ``titles`` those of the factors by name."""

    machine: AblationMachine
    titles: dict[str, str]
    tokens_per_case: int
    rounds: int
    epoch: AblatedEpoch
    price_per_hour: float | None
    rates: OutsideRates
    ends: dict[str, FailedCase | CaseFacts]
    effects: list[FailedEffect | TrainingEffect | OutsideEffect]
    combined: FailedWhole | WholeEffect
    not_measured: list[NotMeasured]


ABLATION = FactFile(AblationFacts)
