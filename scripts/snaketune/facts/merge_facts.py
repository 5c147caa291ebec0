"""merge.json: the outcome of a merge, and the result of its verification."""

from typing import NotRequired, TypedDict

from snaketune.facts.data_facts import FileEntry
from snaketune.facts.fact_files import FactFile


class MergeChecked(TypedDict):
    """The comparison of the merged model with the adapter: losses in nats per trained token, or scores."""

    verdict: str | None
    split: str | None
    rows: int | None
    tokens: int | None
    tensors_merged: int | None
    adapter_tensors: int | None
    relative_error_fp32: float | None
    logits_error: float | None
    file_logits_error: float | None
    change_kept: float | None
    mean_kl: float | None
    mean_kl_interval: list[float]
    adapter_loss: float | None
    merged_loss: float | None
    loss_change: float | None
    loss_change_interval: list[float]
    relative_loss_change: float | None
    moved: int | None
    weights: int | None
    score_change: float | None
    scores_compared: int | None
    pairs_reordered: int | None


class MergeRefusal(TypedDict):
    """Why there is no merged model; one that is not final is tried again at the next command."""

    error: str | None
    reason: str
    is_final: bool | None


class CombinedAdapter(TypedDict):
    """An adapter that was merged together with others."""

    run: str
    weight: float
    digest: str


class CombinationFacts(TypedDict):
    """Several adapters in one model."""

    method: str | None
    adapters: list[CombinedAdapter]


class Merged(TypedDict):
    """merge.json; after a refusal there are no ``files``."""

    files: dict[str, FileEntry]
    dtype: str | None
    rounding: str | None
    check: MergeChecked
    refused: MergeRefusal | None
    combination: CombinationFacts


class ExportCheck(TypedDict):
    """How far an exported file is from the merged model, in nats per token; ``reason``: why that is not known."""

    checked: bool
    reason: NotRequired[str]
    mean_kl: NotRequired[float]
    merged_loss: NotRequired[float]
    exported_loss: NotRequired[float]
    tokens: NotRequired[int]


class Exported(ExportCheck):
    """gguf.json: an exported file, its type and its size."""

    type: str
    bytes: int


MERGED = FactFile(Merged)
EXPORTED = FactFile(Exported)
