"""Likelihood measures per source and per length of the documents."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from snaketune.data.tokens.token_store import TokenStore
from snaketune.evaluate.additive import Additive, differences, values
from snaketune.evaluate.likelihood import Likelihoods

# Of more sources than this the largest are kept, so that the facts stay small.
MOST_SOURCES = 200

ByModel = Mapping[str, Mapping[str, Additive]]


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
    largest = np.sort(numbers[np.argsort(-counts, kind="stable")[:MOST_SOURCES]]).tolist()
    return [{"source": number, **_group(first, sources == number, measures)} for number in largest]


def by_length(first: Likelihoods, measures: ByModel) -> list[dict[str, Any]]:
    """Return the measures of documents of 2^k to 2^(k+1) tokens, ``{from, to, n, tokens, ...}``, shortest first."""
    first = first.without_rejected()
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
        group["difference"] = differences(loss.get("base", {}), loss.get("tuned", {}))
    return group
