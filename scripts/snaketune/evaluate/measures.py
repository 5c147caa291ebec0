"""Measures of a model from sums per document: over all documents, per source and per length."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from snaketune.core.errors import TrainingError
from snaketune.data.tokens.token_store import TokenStore
from snaketune.evaluate.additive import Additive, measure_differences, values
from snaketune.evaluate.likelihood import Likelihoods
from snaketune.evaluate.preferences import PREFERENCE_ACCURACY

# With more sources than this only the largest are listed, so that the facts stay small.
MOST_SOURCES = 200

ByModel = Mapping[str, Mapping[str, Additive]]

LIKELIHOOD_METRICS = ("loss", "perplexity", "bits_per_byte", "token_accuracy", PREFERENCE_ACCURACY)


def likelihood_measures(
    likelihoods: Likelihoods, store: TokenStore, metrics: Collection[str], name: str
) -> dict[str, float]:
    """Return the measures among ``metrics`` that likelihoods give, and ``n``, the number of documents.

    ``loss`` is the mean over all loss-bearing tokens in nats, ``perplexity`` is e to the loss, ``token_accuracy`` the
    fraction that are the model's most likely token, ``bits_per_byte`` the summed loss in bits over the UTF-8 bytes
    of the trained text (Gao et al. 2020, The Pile, section 3.1). A measure that does not exist (nothing scored, a
    perplexity beyond the range of floats) is left out. Of pairs the chosen answers count; their bytes are only known
    together with those of the rejected ones.

    Raises:
        TrainingError: if the model called ``name`` gives a likelihood that is not a number.
    """
    check_finite(likelihoods, name)
    return {**values(additive_measures(likelihoods, store, metrics)), "n": int((~likelihoods.rejected).sum())}


def check_finite(likelihoods: Likelihoods, name: str) -> None:
    """Refuse likelihoods that are not numbers.

    Raises:
        TrainingError: naming the model and the first record.
    """
    if not math.isfinite(float(likelihoods.nll.sum())):
        bad = int(likelihoods.records[~np.isfinite(likelihoods.nll)][0])
        raise TrainingError(
            f"The {name} model's loss is not a number, first on held-out record {bad}: its weights overflowed; lower"
            " train.learning_rate, or set model.dtype to float32 or bfloat16, and train again."
        )


def additive_measures(likelihoods: Likelihoods, store: TokenStore, metrics: Collection[str]) -> dict[str, Additive]:
    """Return the measures among ``metrics`` over the documents, rejected answers of pairs aside."""
    likelihoods = likelihoods.without_rejected()
    # Sums per document, not means: the mean over all tokens then weighs each token equally, whatever document it is in.
    per_token = np.stack([likelihoods.nll, likelihoods.tokens], axis=1)
    hits = np.stack([likelihoods.correct, likelihoods.tokens], axis=1).astype(np.float64)
    found = {
        "loss": Additive(per_token, _ratio),
        "perplexity": Additive(per_token, lambda sums: _exponential(_ratio(sums))),
        "token_accuracy": Additive(hits, _ratio),
        "bits_per_byte": Additive(_bits_and_bytes(likelihoods, store), _ratio),
    }
    return {name: measure for name, measure in found.items() if name in metrics}


def _bits_and_bytes(likelihoods: Likelihoods, store: TokenStore) -> np.ndarray:
    """Return bits and bytes of each complete document; a truncated one adds neither, because its bytes are unknown."""
    # A record has several documents if its answers are separate examples; the length identifies the document.
    widest = int(max(store.lengths.max(initial=0), likelihoods.lengths.max(initial=0))) + 1
    kept = store.records.astype(np.int64) * widest + store.lengths
    order = np.argsort(kept, kind="stable")
    wanted = likelihoods.records * widest + likelihoods.lengths
    places = order[np.minimum(np.searchsorted(kept[order], wanted), len(order) - 1)]
    whole = kept[places] == wanted
    return np.stack([likelihoods.nll / math.log(2), store.bytes[places]], axis=1) * whole[:, None]


def _ratio(sums: np.ndarray) -> float | None:
    return float(sums[0] / sums[1]) if sums[1] else None


def _exponential(value: float | None) -> float | None:
    try:
        # Above 709.78 nats exp exceeds the largest float64.
        return None if value is None else math.exp(value)
    except OverflowError:
        return None


def by_source(first: Likelihoods, store: TokenStore, measures: ByModel) -> list[dict[str, Any]]:
    """Return the measures of each source, ``{source, n, tokens, base, tuned, ..., difference}``, by its number.

    Args:
        first: the likelihoods of any of the models; the documents are the same for all.
        store: the tokenised documents, which know their source.
        measures: the measures of each model over the documents, rejected answers aside.
    """
    first = first.without_rejected()
    sources = store.sources[np.searchsorted(store.records, first.records)]
    numbers, counts = np.unique(sources, return_counts=True)
    # Stable, so that of equally large sources the same ones are listed on every machine.
    largest = np.sort(numbers[np.argsort(-counts, kind="stable")[:MOST_SOURCES]]).tolist()
    return [{"source": number, **_group(first, sources == number, measures)} for number in largest]


def by_length(first: Likelihoods, measures: ByModel) -> list[dict[str, Any]]:
    """Return the measures of documents of 2^k to 2^(k+1) tokens, ``{from, to, n, tokens, ...}``, shortest first."""
    first = first.without_rejected()
    # frexp gives x = m * 2^e with 0.5 <= m < 1, so e - 1 is floor(log2(x)), exact for powers of two.
    powers = np.frexp(np.maximum(first.lengths, 1).astype(np.float64))[1] - 1
    found = np.unique(powers).tolist()
    return [{"from": 1 << p, "to": 2 << p, **_group(first, powers == p, measures)} for p in found]


def _group(first: Likelihoods, chosen: np.ndarray, measures: ByModel) -> dict[str, Any]:
    parts = {
        model: {name: Additive(measure.parts[chosen], measure.value) for name, measure in found.items()}
        for model, found in measures.items()
    }
    group: dict[str, Any] = {"n": int(chosen.sum()), "tokens": int(first.tokens[chosen].sum())}
    group |= {model: values(found) for model, found in parts.items()}
    if {"base", "tuned"} <= set(parts):
        loss = {model: {"loss": found["loss"]} for model, found in parts.items() if "loss" in found}
        group["difference"] = measure_differences(loss.get("base", {}), loss.get("tuned", {}))
    return group
