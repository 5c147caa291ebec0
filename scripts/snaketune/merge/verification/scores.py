"""Verification of a merged reward model: the same scores as base plus adapter, and what the files' dtype changes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snaketune.core.errors import TrainingError
from snaketune.evaluate.models import best_device, load_model
from snaketune.evaluate.reward_scores import score_rows
from snaketune.merge.checkpoint import Checkpoint
from snaketune.merge.verification.logits import Logits
from snaketune.merge.verification.verify import (
    CURE,
    EQUAL,
    LARGEST_LOGITS_ERROR,
    ROUNDED,
    VerificationInputs,
    WeightCheck,
    check_files,
    comparing_settings,
)

ROWS = 64
# A mean change of the scores above this share of their standard deviation is worth a look.
LOOK_SCORES = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCheck(WeightCheck):
    """That of a reward model; ``rounded`` is one with a pair that changes its order, or scores that change by 1%.

    Attributes:
        score_change: mean absolute change of a score by the files' dtype.
        scores_compared: number of documents that this is the mean of.
        pairs_reordered: pairs among them that the merged model ranks the other way round.
    """

    score_change: float
    scores_compared: int
    pairs_reordered: int


class Scores(Logits):
    """Compares the scores of three models instead of their log-probabilities."""

    def _sample(self, model: Any) -> torch.Tensor:
        return torch.from_numpy(score_rows(model, self._rows, self._settings, ROWS))


def verify_scores(folder: Path, proof: VerificationInputs) -> ScoreCheck:
    """Verify that the reward model in ``folder`` gives the scores of base plus adapter, loaded as users load it.

    Raises:
        TrainingError: with the numbers, if the merge is wrong or equals the base model.
    """
    written = check_files(folder, proof)
    settings = comparing_settings(proof)
    # Merging took the whole model in float32 into RAM already, so that it fits there.
    device = best_device() if settings.dtype == "float32" else torch.device("cpu")
    settings = replace(settings, dtype="float32")
    scores = Scores(Checkpoint(proof.base_folder), proof.tuned, False, proof.rows, settings)
    tuned = proof.load(settings, device)
    expected = score_rows(tuned, proof.rows, settings, ROWS)
    scores.read_tuned(tuned, Checkpoint(folder))
    del tuned
    merged = load_model(folder, settings, device)
    found = score_rows(merged, proof.rows, settings, ROWS)
    errors = {"logits_error": scores.sum_error, "file_logits_error": scores.file_error(merged)}
    _judge(errors)
    changed = float(np.abs(found - expected).mean())
    reordered = _reordered(expected, found)
    is_rounded = reordered > 0 or changed > LOOK_SCORES * float(expected.std())
    return ScoreCheck(
        tensors_merged=written.merged,
        adapter_tensors=proof.tensors,
        relative_error_fp32=written.relative_error,
        **errors,
        weights=written.account.weights,
        moved=written.account.moved,
        change_kept=written.account.kept,
        score_change=changed,
        scores_compared=len(found),
        pairs_reordered=reordered,
        rows=min(ROWS, len(proof.rows)),
        computed_in=settings.dtype,
        verdict=ROUNDED if is_rounded else EQUAL,
    )


def _judge(errors: dict[str, float | None]) -> None:
    failed = {name: error for name, error in errors.items() if error is not None and not error < LARGEST_LOGITS_ERROR}
    if failed:
        told = ", ".join(f"{name} {error:.3g} (limit {LARGEST_LOGITS_ERROR:g})" for name, error in failed.items())
        raise TrainingError(f"The scores of the merged reward model are not those of the tuned one: {told}: {CURE}")


def _reordered(expected: np.ndarray, found: np.ndarray) -> int:
    """Return how many pairs are ranked the other way round; the documents of a pair are neighbours in the file."""
    before, after = (np.sign(scores[0::2] - scores[1::2]) for scores in (expected, found))
    return int((before != after).sum())
