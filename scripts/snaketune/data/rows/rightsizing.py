"""The maximum length, chosen from the data: long enough to cut no answer, and no longer than needed.

Memory and the cost of attention grow with the row length, so the model's full context is rarely the right choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from snaketune.core.canonical import digest_of
from snaketune.core.errors import ConfigError, DataError
from snaketune.data.rows.cutting import Pieces, Sizes, cut
from snaketune.data.rows.packing import pack
from snaketune.data.tokens.token_store import TokenStore
from snaketune.facts.data_facts import RIGHTSIZE, LengthAccount, LengthBin, Lengths, PaddedTokens
from snaketune.facts.model_facts import PREPARED_TOKENIZER
from snaketune.facts.token_facts import TOKENS
from snaketune.settings.data_slices import LengthSlice

HISTOGRAM_BINS = 48
BATCH = 8
PARTS_OF_TOKENS: tuple[Literal["tokens_kept", "tokens_dropped", "tokens_truncated"], ...] = (
    "tokens_kept",
    "tokens_dropped",
    "tokens_truncated",
)


@dataclass(frozen=True, slots=True)
class LengthPolicy:
    """The keys of the ``tokens`` section that determine lengths."""

    max_length: int | str
    on_too_long: str
    coverage: float = 1.0
    pad_to_multiple_of: int = 64
    max_dropped_fraction: float = 0.05


def choose_max_length(lengths: np.ndarray, policy: LengthPolicy, context: int | None) -> tuple[int, str]:
    """Return the maximum length in tokens and its origin: ``data``, ``context`` or ``configuration``.

    ``auto`` is the smallest multiple of ``pad_to_multiple_of`` such that documents that fit in full make up at least
    ``coverage`` of the documents and of the tokens, but never more than the model's context.

    Args:
        lengths: tokens of each training document, shape [documents].
        policy: the ``tokens`` section.
        context: context length of the model in tokens, or None if its configuration gives none.

    Raises:
        ConfigError: if a given length exceeds the context.
    """
    if policy.max_length != "auto":
        if context is not None and int(policy.max_length) > context:
            raise ConfigError(
                f"tokens.max_length: {policy.max_length} exceeds the model's context of {context} tokens: set it to "
                f"{context} or less, or to auto."
            )
        return int(policy.max_length), "configuration"
    ordered = np.sort(lengths.astype(np.int64))
    by_documents = int(np.ceil(policy.coverage * len(ordered)))
    # Long documents are few but hold many tokens: covering 95% of the documents may cover far less of the text, so the
    # stricter of the two conditions decides. The tolerance keeps rounding from demanding one document more.
    running = np.cumsum(ordered)
    by_tokens = int(np.searchsorted(running, policy.coverage * running[-1] - 1e-9)) + 1
    longest = int(ordered[max(by_documents, by_tokens, 1) - 1])
    step = policy.pad_to_multiple_of
    # Rounded up, so that rows are whole tiles of the kernels.
    rounded = -(-longest // step) * step
    return (
        # The context is not rounded: positions beyond it were never trained.
        (context, "context")
        if context is not None and context < longest
        else (min(rounded, context or rounded), "data")
    )


def account_for(sizes: Sizes, pieces: Pieces, max_length: int) -> LengthAccount:
    """Return the account of one split's documents; kept, dropped and truncated tokens add up to all tokens.

    ``tokens_truncated`` counts the tokens cut off, not those kept; ``in_pieces`` the texts cut into ``pieces``;
    ``tokens_repeated`` the tokens that occur in two pieces and are trained in the earlier one.
    """
    lengths = sizes.lengths.astype(np.int64)
    stays = np.zeros(len(lengths), bool)
    stays[pieces.documents] = True
    truncated = (lengths > max_length) & stays & ~sizes.plain
    in_pieces = (lengths > max_length) & sizes.plain
    counts = pieces.counts()
    account: LengthAccount = {
        "records": len(lengths),
        "tokens": int(lengths.sum()),
        "longest": int(lengths.max(initial=0)),
        "kept": int(stays.sum()),
        "truncated": int(truncated.sum()),
        "dropped": int((~stays).sum()),
        "tokens_truncated": int((lengths[truncated] - max_length).sum()),
        "tokens_dropped": int(lengths[~stays].sum()),
        "tokens_kept": int(pieces.lengths.sum()) - counts["tokens_repeated"],
        "in_pieces": int(in_pieces.sum()),
        "pieces": int(in_pieces.sum()) + counts["tokens_repeated"],
        "tokens_repeated": counts["tokens_repeated"],
    }
    # An identity of the counts above: whatever breaks it loses tokens silently.
    assert sum(account[name] or 0 for name in PARTS_OF_TOKENS) == account["tokens"]
    return account


def tokens_by_batching(lengths: np.ndarray, max_length: int, context: int | None) -> PaddedTokens:
    """Return the tokens to compute, padding included, for each way of batching the pieces.

    ``padded_tokens_at_context`` pads every piece to the model's context (None if unknown),
    ``padded_tokens_at_max_length`` to the length chosen here, ``padded_tokens_dynamic_batches_of_8`` to the longest
    of eight consecutive pieces (the last batch may be smaller); ``packed_tokens`` is for packed rows.
    """
    sizes = np.diff(np.append(np.arange(0, len(lengths), BATCH), len(lengths)))
    longest = np.maximum.reduceat(lengths, np.arange(0, len(lengths), BATCH)) if len(lengths) else lengths
    return {
        "padded_tokens_at_context": None if context is None else len(lengths) * context,
        "padded_tokens_at_max_length": len(lengths) * max_length,
        "padded_tokens_dynamic_batches_of_8": int((longest * sizes).sum()),
        "packed_tokens": len(pack(lengths, max_length)) * max_length,
    }


def rightsize(train: Sizes, held_out: Sizes, policy: LengthPolicy, context: int | None, pairs: bool = False) -> Lengths:
    """Return the facts of ``rightsize.json`` without the fingerprint, from the sizes of both splits.

    With ``pairs``, a length is that of both answers, each with its prompt: both are kept or both are dropped.

    Raises:
        ConfigError: if the configured length exceeds the model's context.
        DataError: if no training or no held-out document is left, or a document is too long with
            ``on_too_long: error``.
    """
    if not len(train.lengths):
        raise DataError("no training document has a token to train on: see the reasons in the manifest of tokenize.")
    max_length, origin = choose_max_length(train.lengths, policy, context)
    what = "pairs" if pairs else "documents"
    if policy.on_too_long == "error":
        _check_none_longer(train, max_length, what)
    pieces = cut(train, max_length, policy.on_too_long)
    account = account_for(train, pieces, max_length)
    held_out_account = account_for(held_out, cut(held_out, max_length, policy.on_too_long), max_length)
    if not account["kept"]:
        cure = "" if pairs or policy.on_too_long == "truncate" else " or set tokens.on_too_long to truncate"
        raise _all_too_long(f"training {what}", train.lengths, max_length, cure)
    if len(held_out.lengths) and not held_out_account["kept"]:
        cure = ", or set split.test_size to 0 to hold nothing out"
        raise _all_too_long(f"held-out {what}", held_out.lengths, max_length, cure)
    fits = train.lengths <= max_length
    return {
        **account,
        "max_length": max_length,
        "max_length_from": origin,
        "on_too_long": policy.on_too_long,
        "model_context": context,
        "coverage_records": round(float(fits.mean()), 6),
        "coverage_tokens": round(float(train.lengths[fits].sum() / train.lengths.sum()), 6),
        **tokens_by_batching(pieces.lengths, max_length, context),
        "eval": held_out_account,
        "histogram": histogram(train.lengths),
    }


def _check_none_longer(train: Sizes, max_length: int, what: str) -> None:
    if longer := int((train.lengths > max_length).sum()):
        raise DataError(
            f"{longer} of {len(train.lengths)} training {what} are longer than {max_length} tokens (the longest has"
            f" {int(train.lengths.max())}): raise tokens.max_length or set tokens.on_too_long to"
            f" {'drop' if what == 'pairs' else 'drop or truncate'}."
        )


def _all_too_long(what: str, lengths: np.ndarray, max_length: int, cure: str) -> DataError:
    return DataError(
        f"all {len(lengths)} {what} are longer than {max_length} tokens (the shortest has {int(lengths.min())}):"
        f" raise tokens.max_length{cure}."
    )


def histogram(lengths: np.ndarray) -> list[LengthBin]:
    """Return at most 48 bins of equal width (a multiple of 4 tokens), ``from`` inclusive, ``to`` exclusive."""
    # Multiples of 4 keep the bin edges readable, and at most 48 bins fit the chart of the report.
    width = max(4, -(-(int(lengths.max()) + 1) // HISTOGRAM_BINS // 4) * 4)
    counts = np.bincount(lengths.astype(np.int64) // width)
    return [{"from": i * width, "to": (i + 1) * width, "records": int(n)} for i, n in enumerate(counts)]


@dataclass(frozen=True, slots=True)
class RightsizeJob:
    """The stage: files and settings, by the names of the flags that ``rightsize.py`` documents."""

    spec: str
    code: str
    cfg: LengthSlice
    tokens: Path
    model: Path
    output: Path


def rightsize_run(job: RightsizeJob) -> None:
    """Measure the lengths, choose the maximum length, and write the facts with a fingerprint of the data."""
    from snaketune.data.tokens.left_out_records import check_losses, lengths_told

    tokens, model = TOKENS.read_manifest(job.tokens), PREPARED_TOKENIZER.read(job.model)
    folder = job.tokens.parent
    train, held_out = TokenStore(folder / "train"), TokenStore(folder / "eval")
    policy, pairs = LengthPolicy(**cast(Mapping[str, Any], job.cfg["tokens"])), bool(train.seconds.any())
    facts = rightsize(Sizes.of(train), Sizes.of(held_out), policy, model["context_length"], pairs)
    check_losses(facts, tokens["splits"], policy, pairs)
    for line in lengths_told(facts, pairs):
        print(line)
    # The list of dropped records does not affect training: it may change without causing a rerun.
    data = {name: file for name, file in tokens["files"].items() if name != "dropped.jsonl"}
    parts = {"data": data, "tokenizer": model["tokenizer_digest"], "max_length": facts["max_length"]}
    identity = {"model_packs": model["nature"].get("packing"), "fingerprint": digest_of(parts)}
    RIGHTSIZE.write(job.output, {**facts, **identity})
