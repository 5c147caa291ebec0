"""Counts of the data stages: records read, dropped (by reason) and kept."""

from typing import Any, NotRequired, TypedDict

from snaketune.facts.fact_files import FactFile


class FileEntry(TypedDict):
    """Size and digest of a file that a manifest lists."""

    bytes: int
    digest: str


class StagedSource(TypedDict):
    """A source as the user named it; both others are left out where they are empty."""

    path: str
    bytes: int
    digest: str
    options: NotRequired[dict[str, Any]]
    part: NotRequired[int]


# Line, offset, position, blocks and digest, see :class:`snaketune.data.sources.pieces.Chunk`.
StagedChunk = list[Any]


class StagedSources(TypedDict):
    """stage.json: the sources, and of large files of lines the chunks, by the source's number.

    Its format number is that of the manifest beside it.
    """

    sources: list[StagedSource]
    chunks: NotRequired[dict[str, list[StagedChunk]]]


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


class PaddedTokens(TypedDict):
    """Tokens to compute, padding included, for each way of batching."""

    padded_tokens_at_context: int | None
    padded_tokens_at_max_length: int | None
    padded_tokens_dynamic_batches_of_8: int | None
    packed_tokens: int | None


class Lengths(LengthAccount, PaddedTokens):
    """The account of the training split, and the lengths that were chosen; coverages are fractions that fit in full."""

    max_length: int | None
    max_length_from: str | None
    on_too_long: str | None
    model_context: int | None
    coverage_records: float | None
    coverage_tokens: float | None
    eval: LengthAccount
    histogram: list[LengthBin]


class Rightsize(Lengths):
    """rightsize.json; ``model_packs``: whether the model separates packed documents."""

    model_packs: bool | None
    fingerprint: str | None


class ChosenLength(TypedDict):
    """The part of rightsize.json that packing reads."""

    max_length: int
    model_packs: bool | None


class DataIdentity(TypedDict):
    """The part of rightsize.json that names a training: ``fingerprint`` covers tokens, tokenizer and length."""

    fingerprint: str


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

    files: dict[str, FileEntry]
    packing: bool | None
    row_length: int | None
    splits: PackedSplits


class CountedSplit(TypedDict):
    """One split in rows, for jobs that compute with its size, which every manifest has."""

    rows: int
    documents: int
    tokens: int
    trainable_tokens: int | None


class CountedSplits(TypedDict):
    """Both of them, ``eval`` where something was held out."""

    train: CountedSplit
    eval: NotRequired[CountedSplit]


class CountedRows(TypedDict):
    """The part of the manifest of ``pack_rows`` that such jobs read."""

    files: dict[str, FileEntry]
    packing: bool | None
    row_length: int
    splits: CountedSplits


class DocumentLengths(TypedDict):
    """The part of rightsize.json that such jobs read."""

    max_length: int
    on_too_long: str
    in_pieces: int | None
    longest: int | None
    model_context: int | None
    fingerprint: str | None
    histogram: list[LengthBin]


STAGED = FactFile(StagedSources)
READING = FactFile(Reading)
DEDUPLICATION = FactFile(Deduplication)
SPLIT = FactFile(Split)
RIGHTSIZE = FactFile(Rightsize)
DATA_IDENTITY = FactFile(DataIdentity)
CHOSEN_LENGTH = FactFile(ChosenLength)
DOCUMENT_LENGTHS = FactFile(DocumentLengths)
PACKING = FactFile(Packing)
COUNTED_ROWS = FactFile(CountedRows)
