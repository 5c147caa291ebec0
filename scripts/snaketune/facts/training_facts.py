"""The manifest of a trained adapter or model."""

from typing import TypedDict

from snaketune.facts.data_facts import FileEntry
from snaketune.facts.fact_files import FactFile


class BestCheckpointFacts(TypedDict):
    """The best and the kept checkpoint, if best-checkpoint selection or early stopping is used."""

    step: int | None
    value: float | None
    metric: str | None
    kept_step: int | None
    stopped_early: bool | None


class Trained(TypedDict):
    """adapter.manifest.json; ``trained`` is ``adapter`` or ``every weight``."""

    files: dict[str, FileEntry]
    steps: int | None
    tokens: int | None
    train_loss_last: float | None
    trained: str | None
    trainable_parameters: int | None
    total_parameters: int | None
    fingerprint: str | None
    origins: dict[str, str]
    versions: dict[str, str]
    best: BestCheckpointFacts


TRAINED = FactFile(Trained)
