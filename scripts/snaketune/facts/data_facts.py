"""Counts of the data stages: records read, dropped (by reason) and kept."""

from typing import Any, NotRequired, TypedDict

from snaketune.facts.fact_files import FactFile

LengthBin = TypedDict("LengthBin", {"from": int, "to": int, "records": int})
"""Documents of ``from`` (inclusive) to ``to`` (exclusive) tokens."""


class SourceAccount(TypedDict):
    """Account of the lines of one source; ``lines`` is None if unknown."""

    path: str
    format: str | None
    lines: int | None
    records: int | None
    quarantined: int | None


class Reading(TypedDict):
    """The manifest of ``read_records``; ``reasons`` counts the quarantined lines."""

    records: int | None
    quarantined: int | None
    not_sampled: int | None
    reasons: dict[str, int]
    sources: list[SourceAccount]


class Deduplication(TypedDict):
    """The manifest of ``dedupe_records``."""

    kept: int | None
    removed: int | None
    removed_exact: int | None
    removed_near: int | None


class Split(TypedDict):
    """The manifest of ``split_records``: records of both splits, and what was kept from training and why."""

    train: int | None
    eval: int | None
    eval_alike: int | None
    shared_prompts: int | None
    dropped_similar: int | None
    dropped_contaminated: int | None
    contamination: Any
    weight_left_out: int | None
    weight_added: int | None


class TokenizedSplit(TypedDict):
    """One tokenised split; ``dropped`` counts by reason, None where nothing was counted."""

    records: int | None
    tokens: int | None
    trainable_tokens: int | None
    dropped: dict[str, int] | None


class TokenizedSplits(TypedDict):
    """Both of them."""

    train: TokenizedSplit
    eval: TokenizedSplit


class TextPiece(TypedDict):
    """The text of some tokens, and whether they are trained."""

    text: str | None
    trained: bool | None


class TokenizedExample(TypedDict, total=False):
    """A record as the model sees it, by its number; a pair has a rejected answer, too."""

    record: int | None
    tokens: list[TextPiece]
    rejected: list[TextPiece]


class FileEntry(TypedDict):
    """Size and digest of a file that a manifest lists."""

    bytes: int
    digest: str


class Tokens(TypedDict):
    """The manifest of ``tokenize_records``; an example has ``tokens``, and ``rejected`` where it is a pair."""

    files: dict[str, FileEntry]
    splits: TokenizedSplits
    examples: list[TokenizedExample]


class LengthAccount(TypedDict):
    """Effect of the maximum length on the documents of one split, in documents and in tokens."""

    records: int | None
    tokens: int | None
    longest: int | None
    kept: int | None
    truncated: int | None
    dropped: int | None
    tokens_kept: int | None
    tokens_truncated: int | None
    tokens_dropped: int | None
    tokens_repeated: int | None
    in_pieces: int | None
    pieces: int | None


class Rightsize(LengthAccount):
    """rightsize.json: the account of the training split, and the lengths that were chosen."""

    max_length: int | None
    max_length_from: str | None
    model_context: int | None
    fingerprint: str | None
    eval: LengthAccount
    histogram: list[LengthBin]
    padded_tokens_at_context: int | None
    padded_tokens_at_max_length: int | None
    padded_tokens_dynamic_batches_of_8: int | None
    packed_tokens: int | None


class ChosenLength(TypedDict):
    """The part of rightsize.json that packing reads; ``model_packs``: whether the model separates packed documents."""

    max_length: int
    model_packs: bool | None


class PackedSplit(TypedDict):
    """One split in rows; ``efficiency`` is the fraction of their positions that hold a token.

    Where pairs have margins, ``scored_pairs`` counts those with one above 0, and ``mean_margin`` is that of all.
    """

    rows: int | None
    documents: int | None
    tokens: int | None
    trainable_tokens: int | None
    efficiency: float | None
    scored_pairs: NotRequired[int]
    mean_margin: NotRequired[float]


class PackedSplits(TypedDict):
    """Both of them, ``eval`` where something was held out."""

    train: PackedSplit
    eval: NotRequired[PackedSplit]


class Packing(TypedDict):
    """The manifest of ``pack_rows``."""

    packing: bool | None
    row_length: int | None
    splits: PackedSplits


READING = FactFile(Reading)
DEDUPLICATION = FactFile(Deduplication)
SPLIT = FactFile(Split)
TOKENS = FactFile(Tokens)
RIGHTSIZE = FactFile(Rightsize)
CHOSEN_LENGTH = FactFile(ChosenLength)
PACKING = FactFile(Packing)
