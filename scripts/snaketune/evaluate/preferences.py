"""Ranking of held-out answers by likelihood: what preference training has taught a model."""

import numpy as np

from snaketune.evaluate.likelihood import Likelihoods

PREFERENCE_ACCURACY = "preference_accuracy"


def preference_measures(found: Likelihoods, base: Likelihoods | None) -> dict[str, float]:
    """Return how often the model ranks the answers of a pair as the data do; nothing without pairs.

    ``preference_accuracy`` is the fraction of pairs whose chosen answer has a higher log-probability, summed over
    its tokens, than the rejected one; shorter answers have the advantage in it. ``reward_accuracy`` is the fraction
    whose chosen answer gained more log-probability over the base model than the rejected one: that of DPO's implicit
    reward (Rafailov et al. 2023, arXiv:2305.18290, section 4), in which lengths cancel. A base model has no gain.

    Args:
        found: likelihoods of all documents under the model.
        base: those under the base model, None for the base model itself.
    """
    if not found.rejected.any():
        return {}
    if not np.array_equal(found.records[found.rejected], found.records[~found.rejected]):
        return _matched_measures(found, base)
    measures = {PREFERENCE_ACCURACY: float(np.mean(_advantage(found) > 0))}
    if base is not None:
        measures["reward_accuracy"] = float(np.mean(_advantage(found) > _advantage(base)))
    return measures


def _matched_measures(found: Likelihoods, base: Likelihoods | None) -> dict[str, float]:
    """Return how often good answers gained more over the base model than bad ones to other prompts.

    The good and the bad answers are matched one to one in the order of their records, as far as the fewer ones reach:
    comparisons that share no answer, so that they can be counted like pairs.
    """
    if base is None:
        return {}
    gains = base.nll - found.nll
    good, bad = gains[~found.rejected], gains[found.rejected]
    count = min(len(good), len(bad))
    return {"reward_accuracy": float(np.mean(good[:count] > bad[:count])), "n_matched": count} if count else {}


def _advantage(found: Likelihoods) -> np.ndarray:
    """Return by how much the chosen answer of each pair is likelier than the rejected one, in nats, shape [pairs]."""
    return found.nll[found.rejected] - found.nll[~found.rejected]
