"""From sums per document to the measures of a model."""

import math
from collections.abc import Collection, Sequence

import numpy as np

from snaketune.common.errors import TrainingError
from snaketune.data.token_store import TokenStore
from snaketune.evaluate.likelihood import Likelihoods

LIKELIHOOD_METRICS = ("loss", "perplexity", "bits_per_byte", "token_accuracy")


def likelihood_measures(
    likelihoods: Likelihoods, store: TokenStore, metrics: Collection[str], name: str
) -> dict[str, float]:
    """Return the measures among ``metrics`` that likelihoods give, and ``n``, the number of documents.

    ``loss`` is the mean over all loss-bearing tokens in nats, ``perplexity`` is e to the loss, ``token_accuracy`` the
    fraction of them that the model would have said, ``bits_per_byte`` the summed loss in bits over the UTF-8 bytes
    of the trained text (Gao et al. 2020, The Pile, section 3.1). A measure that does not exist (nothing scored, a
    perplexity beyond the range of floats) is left out.

    Raises:
        TrainingError: if the model called ``name`` gives a likelihood that is not a number.
    """
    total, tokens = float(likelihoods.nll.sum()), int(likelihoods.tokens.sum())
    if not math.isfinite(total):
        bad = int(likelihoods.records[~np.isfinite(likelihoods.nll)][0])
        raise TrainingError(
            f"The {name} model's loss is not a number, first on held-out record {bad}: its weights overflowed; lower"
            " train.learning_rate, or set model.dtype to float32 or bfloat16, and train again."
        )
    found: dict[str, float | None] = {}
    if tokens:
        found["loss"] = total / tokens
        found["perplexity"] = _exponential(total / tokens)
        found["token_accuracy"] = float(likelihoods.correct.sum()) / tokens
        found["bits_per_byte"] = bits_per_byte(likelihoods, store)
    chosen = {key: value for key, value in found.items() if key in metrics and value is not None}
    return {**chosen, "n": len(likelihoods.records)}


def bits_per_byte(likelihoods: Likelihoods, store: TokenStore) -> float | None:
    """Return bits per byte over the documents that are whole: the bytes of a cut one are not known."""
    places = np.searchsorted(store.records, likelihoods.records)
    whole = store.lengths[places] == likelihoods.lengths
    size = int(store.bytes[places][whole].sum())
    return float(likelihoods.nll[whole].sum()) / math.log(2) / size if size else None


def match(answer: str, reference: str) -> bool:
    """Tell whether an answer is the reference, surrounding white space aside."""
    return answer.strip() == reference.strip()


def answer_measures(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return ``exact_match``, the fraction of answers that are right, and ``n_generated``; nothing without answers."""
    if not answers:
        return {}
    right = sum(match(answer, reference) for answer, reference in zip(answers, references, strict=True))
    return {"exact_match": right / len(answers), "n_generated": len(answers)}


def _exponential(value: float) -> float | None:
    try:
        return math.exp(value)
    except OverflowError:
        return None
