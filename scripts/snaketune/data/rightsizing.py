"""The maximum length, taken from the data: no answer is cut and no row is longer than it needs to be."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from snaketune.common.errors import ConfigError, DataError
from snaketune.data.packing import pack

HISTOGRAM_BINS = 48
BATCH = 8


@dataclass(frozen=True, slots=True)
class LengthPolicy:
    """The keys of the ``tokens`` section that decide lengths."""

    max_length: int | str
    on_too_long: str
    coverage: float = 1.0
    pad_to_multiple_of: int = 64


def choose_max_length(lengths: np.ndarray, policy: LengthPolicy, context: int | None) -> int:
    """Return the maximum length in tokens.

    ``auto`` is the smallest multiple of ``pad_to_multiple_of`` such that at least ``coverage`` of the documents
    and ``coverage`` of the tokens are in documents that fit in full, and never more than the model's context.

    Args:
        lengths: tokens of each training document, shape [documents].
        context: longest context of the model in tokens, or None when it states none.

    Raises:
        ConfigError: if a given length exceeds the context.
    """
    if policy.max_length != "auto":
        if context is not None and int(policy.max_length) > context:
            raise ConfigError(
                f"tokens.max_length: {policy.max_length} is more than the model's context of {context} tokens:"
                f" set it to {context} or less, or to auto."
            )
        return int(policy.max_length)
    ordered = np.sort(lengths.astype(np.int64))
    by_documents = int(np.ceil(policy.coverage * len(ordered)))
    running = np.cumsum(ordered)
    by_tokens = int(np.searchsorted(running, policy.coverage * running[-1] - 1e-9)) + 1
    longest = int(ordered[max(by_documents, by_tokens, 1) - 1])
    step = policy.pad_to_multiple_of
    rounded = -(-longest // step) * step
    return rounded if context is None else min(rounded, context)


def account_for(lengths: np.ndarray, max_length: int, on_too_long: str) -> dict[str, int]:
    """Return what happens to the documents of one split; kept + dropped + truncated tokens are all tokens.

    ``tokens_truncated`` counts the tokens that are cut off, not those that stay.
    """
    lengths = lengths.astype(np.int64)
    longer = lengths > max_length
    total, excess = int(lengths.sum()), int((lengths[longer] - max_length).sum())
    truncates = on_too_long == "truncate"
    dropped_tokens = 0 if truncates else int(lengths[longer].sum())
    account = {
        "records": len(lengths),
        "tokens": total,
        "longest": int(lengths.max(initial=0)),
        "kept": len(lengths) if truncates else int((~longer).sum()),
        "truncated": int(longer.sum()) if truncates else 0,
        "dropped": 0 if truncates else int(longer.sum()),
        "tokens_truncated": excess if truncates else 0,
        "tokens_dropped": dropped_tokens,
    }
    stay = lengths if truncates else lengths[~longer]
    account["tokens_kept"] = int(np.minimum(stay, max_length).sum())
    assert account["tokens_kept"] + account["tokens_dropped"] + account["tokens_truncated"] == total
    return account


def costs(lengths: np.ndarray, max_length: int, on_too_long: str, context: int | None) -> dict[str, int | None]:
    """Return how many tokens, padding included, the documents that stay take in each way of making batches.

    ``padded_tokens_at_context`` pads every document to the model's context (None when it states none),
    ``padded_tokens_at_max_length`` to the length chosen here, ``padded_tokens_dynamic_batches_of_8`` to the longest
    of eight documents in the order of the data (the last batch may be smaller), ``packed_tokens`` is packed rows.
    """
    stay = np.minimum(lengths if on_too_long == "truncate" else lengths[lengths <= max_length], max_length)
    sizes = np.diff([*range(0, len(stay), BATCH), len(stay)])
    longest = np.maximum.reduceat(stay, np.arange(0, len(stay), BATCH)) if len(stay) else np.empty(0, np.int64)
    return {
        "padded_tokens_at_context": None if context is None else len(stay) * context,
        "padded_tokens_at_max_length": len(stay) * max_length,
        "padded_tokens_dynamic_batches_of_8": int((longest.astype(np.int64) * sizes).sum()),
        "packed_tokens": len(pack(stay, max_length)) * max_length,
    }


def rightsize(
    train: np.ndarray, held_out: np.ndarray, policy: LengthPolicy, context: int | None, pairs: bool = False
) -> dict[str, Any]:
    """Return the facts of ``rightsize.json`` without the fingerprint, from the lengths of both splits in tokens.

    With ``pairs`` a length is that of both answers, each with its prompt: they stay together or go together.

    Raises:
        ConfigError: if the configured length exceeds the model's context.
        DataError: if nothing is left to train on or of what was held out, or ``on_too_long: error`` meets a longer
            document.
    """
    if not len(train):
        raise DataError("no training document has a token to train on: look at the reasons in the tokenize manifest.")
    max_length = choose_max_length(train, policy, context)
    account, held_out_account = (account_for(part, max_length, policy.on_too_long) for part in (train, held_out))
    what = "pairs" if pairs else "documents"
    if policy.on_too_long == "error" and account["dropped"]:
        raise DataError(
            f"{account['dropped']} of {account['records']} training {what} are longer than {max_length} tokens (the"
            f" longest has {account['longest']}): raise tokens.max_length or set tokens.on_too_long to"
            f" {'drop' if pairs else 'drop or truncate'}."
        )
    if not account["kept"]:
        raise _all_too_long(
            f"training {what}", train, max_length, "" if pairs else " or set tokens.on_too_long to truncate"
        )
    if len(held_out) and not held_out_account["kept"]:
        cure = ", or set split.test_size to 0 to hold nothing out"
        raise _all_too_long(f"held-out {what}", held_out, max_length, cure)
    fits = train <= max_length
    return {
        **account,
        "max_length": max_length,
        "max_length_from": "data" if policy.max_length == "auto" else "configuration",
        "on_too_long": policy.on_too_long,
        "model_context": context,
        "coverage_records": round(float(fits.mean()), 6),
        "coverage_tokens": round(float(train[fits].sum() / train.sum()), 6),
        **costs(train, max_length, policy.on_too_long, context),
        "eval": held_out_account,
        "histogram": histogram(train),
    }


def _all_too_long(what: str, lengths: np.ndarray, max_length: int, cure: str) -> DataError:
    return DataError(
        f"all {len(lengths)} {what} are longer than {max_length} tokens (the shortest has {int(lengths.min())}):"
        f" raise tokens.max_length{cure}."
    )


def histogram(lengths: np.ndarray) -> list[dict[str, int]]:
    """Return at most 48 bins of equal width (a multiple of 4 tokens), each ``from`` (inclusive) ``to`` (exclusive)."""
    width = max(4, -(-(int(lengths.max()) + 1) // HISTOGRAM_BINS // 4) * 4)
    counts = np.bincount(lengths.astype(np.int64) // width)
    return [{"from": i * width, "to": (i + 1) * width, "records": int(n)} for i, n in enumerate(counts)]
