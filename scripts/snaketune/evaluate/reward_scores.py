"""The scores that reward models give the held-out pairs: how often the chosen answer has the higher one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from snaketune.core.errors import TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.additive import Additive, measure_differences, values
from snaketune.evaluate.answers.generating import spelled
from snaketune.evaluate.evaluation_settings import EvaluationInputs
from snaketune.evaluate.models import (
    ModelSettings,
    attach_adapter,
    free_memory,
    is_whole_model,
    load_model,
    load_tokenizer,
    with_faster_layers,
)
from snaketune.evaluate.preferences import PREFERENCE_ACCURACY
from snaketune.evaluate.scoring import row_batches
from snaketune.model.reward_model import HEAD, padding_of
from snaketune.train.batches import collate, with_boundaries
from snaketune.train.packages import NONE
from snaketune.train.preference.reward import document_ends

BINS, EXAMPLES, SHOWN_CHARACTERS = 24, 3, 400
STEPS = {"tuned_minus_base": ("base", "tuned"), "merged_minus_tuned": ("tuned", "merged")}


@dataclass(frozen=True, slots=True)
class Place:
    """A packed document: its record, its row, where it begins and its length in tokens; ``rejected`` answers."""

    record: int
    row: int
    start: int
    length: int
    rejected: bool


@dataclass(frozen=True, slots=True)
class RewardScores:
    """The scores of the held-out documents, and what follows from them.

    Attributes:
        places: the documents in the order of the records, the chosen one of a pair first.
        by_model: scores in that order, float64, shape [documents].
        facts: what evaluation.json holds.
    """

    places: list[Place]
    by_model: dict[str, np.ndarray]
    facts: dict[str, Any]

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield a line per document: its record, whether it is the rejected one, its tokens, and its scores."""
        for index, place in enumerate(self.places):
            which = {"record": place.record, **({"rejected": True} if place.rejected else {}), "tokens": place.length}
            yield which | {f"{name}_score": float(scores[index]) for name, scores in self.by_model.items()}


def evaluate_scores(inputs: EvaluationInputs, settings: ModelSettings) -> RewardScores:
    """Return the scores of the base with an untrained head, of the tuned model and, if there is one, the merged one.

    Raises:
        TrainingError: if the adapter does not fit the model or a score is not finite.
    """
    rows = PackedRows(inputs.rows)
    settings = replace(settings, scores=True)
    places, order = places_of(rows)
    found: dict[str, np.ndarray] = {}

    def take(name: str, model: Any) -> None:
        found[name] = score_rows(model, rows, settings)[order]
        if not np.isfinite(found[name]).all():
            raise TrainingError(
                f"The {name} model's score of held-out record {places[int(np.argmin(np.isfinite(found[name])))].record}"
                " is not finite: lower train.learning_rate, and train again."
            )

    # One model in memory at a time, and with an adapter one set of weights for base and tuned.
    base = load_model(inputs.model, settings)
    if is_whole_model(inputs.adapter):
        take("base", base)
        take("tuned", load_model(inputs.adapter, replace(settings, quantization=NONE)))
    else:
        tuned = with_faster_layers(attach_adapter(base, inputs.adapter))
        with tuned.disable_adapter():
            take("base", tuned)
        take("tuned", tuned)
        del tuned
    del base
    free_memory()
    if inputs.merged is not None:
        take("merged", load_model(inputs.merged, replace(settings, quantization=NONE)))
    facts = _facts(found)
    facts["scores"] = _histogram(found["tuned"])
    facts["scored_pairs"] = _examples(rows, places, found["tuned"], load_tokenizer(inputs.model, settings))
    for name in found:
        told = ", ".join(f"{key} {value:.6g}" for key, value in facts[name].items())
        print(f"{name}: {told}", flush=True)
    return RewardScores(places, found, facts)


def places_of(rows: PackedRows) -> tuple[list[Place], np.ndarray]:
    """Return the documents of ``rows`` in the order of their records, and which of the file each of them is."""
    found = [
        Place(document.record, row, document.start, document.length, bool(is_rejected))
        for row in range(len(rows))
        for document, is_rejected in zip(rows.documents(row), rows.rejected(row), strict=True)
    ]
    order = np.argsort([place.record for place in found], kind="stable")
    return [found[index] for index in order], order


@torch.no_grad()
def score_rows(model: Any, rows: PackedRows, settings: ModelSettings, limit: int | None = None) -> np.ndarray:
    """Return the score of each document in the order of the file, float64, shape [documents].

    Args:
        model: a reward model, under an adapter or not.
        rows: the packed rows.
        settings: how the model was loaded.
        limit: only the documents of the first ``limit`` rows are scored; None scores all.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    count = len(rows) if limit is None else min(limit, len(rows))
    by_row: list[np.ndarray] = [np.zeros(0)] * count
    for indices in row_batches(rows.tokens[:count], rows.row_length):
        batch = collate(rows, indices)
        ends = document_ends(batch, torch.from_numpy(rows.tokens[indices]).long(), padding_of(base))
        inputs: dict[str, Any] = {name: values for name, values in batch.items() if name != "labels"}
        inputs = with_boundaries(inputs) if settings.uses_flash else inputs
        moved = {name: v.to(base.device) if isinstance(v, torch.Tensor) else v for name, v in inputs.items()}
        # The head runs on the last tokens alone: on whole rows it would also score every other position.
        states = base.base_model(**moved, use_cache=False).last_hidden_state.flatten(0, 1)[ends.to(base.device)]
        head = getattr(base, HEAD)
        # A trained head is float32 on a model in 16 bits until both are merged.
        scores = head(states.to(head.weight.dtype)).squeeze(-1).double().cpu().numpy()
        counts = [len(rows.documents(row)) for row in indices]
        for row, part in zip(indices, np.split(scores, np.cumsum(counts)[:-1]), strict=True):
            by_row[row] = part
    return np.concatenate(by_row) if by_row else np.zeros(0)


def pair_measures(scores: np.ndarray) -> dict[str, Additive]:
    """Return the measures of pairs, whose chosen and rejected scores alternate.

    ``preference_accuracy`` is the fraction whose chosen answer has the higher score, ``loss`` that of Bradley and
    Terry in nats per pair, and ``reward_margin`` the mean difference of the two scores.
    """
    margins = scores[0::2] - scores[1::2]
    ones = np.ones(len(margins))
    # -log sigmoid(m) = log(1 + e^-m), as a logaddexp that neither overflows nor loses small values.
    parts = {PREFERENCE_ACCURACY: margins > 0, "loss": np.logaddexp(0, -margins), "reward_margin": margins}
    return {name: Additive(np.stack([part.astype(np.float64), ones], 1), _mean) for name, part in parts.items()}


def _mean(sums: np.ndarray) -> float | None:
    return float(sums[0] / sums[1]) if sums[1] else None


def _facts(found: dict[str, np.ndarray]) -> dict[str, Any]:
    measures = {name: pair_measures(scores) for name, scores in found.items()}
    facts: dict[str, Any] = {name: {**values(own), "n": len(found[name]) // 2} for name, own in measures.items()}
    moved = {
        step: measure_differences(measures[before], measures[after])
        for step, (before, after) in STEPS.items()
        if {before, after} <= set(measures)
    }
    return facts | {"differences": moved}


def _histogram(scores: np.ndarray) -> dict[str, Any]:
    """Return the distribution of the scores of chosen and rejected answers: the edges of the bins, and counts."""
    if not len(scores):
        return {"edges": [], "chosen": [], "rejected": []}
    # Common edges for chosen and rejected answers, so that their overlap can be seen.
    edges = np.histogram_bin_edges(scores, BINS)
    counts = {name: np.histogram(part, edges)[0].tolist() for name, part in _sides(scores).items()}
    return {"edges": edges.tolist(), **counts}


def _sides(scores: np.ndarray) -> dict[str, np.ndarray]:
    return {"chosen": scores[0::2], "rejected": scores[1::2]}


def _examples(rows: PackedRows, places: list[Place], scores: np.ndarray, tokenizer: Any) -> list[dict[str, Any]]:
    """Return the pairs that are ranked wrong by most, then those ranked right by most: texts and scores."""
    margins = scores[0::2] - scores[1::2]
    order = np.argsort(margins, kind="stable")
    wrong = [int(pair) for pair in order[:EXAMPLES] if margins[pair] <= 0]
    right = [int(pair) for pair in order[::-1][:EXAMPLES] if margins[pair] > 0]
    found = []
    for pair in [*wrong, *right]:
        example: dict[str, Any] = {"record": places[2 * pair].record}
        for side, name in enumerate(("chosen", "rejected")):
            asked, answer = _texts(rows, places[2 * pair + side], tokenizer)
            example |= {"prompt": asked, name: answer, f"{name}_score": float(scores[2 * pair + side])}
        found.append(example)
    return found


def _texts(rows: PackedRows, place: Place, tokenizer: Any) -> tuple[str, str]:
    part = slice(place.start, place.start + place.length)
    ids, mask = (rows.take(name, [place.row])[0][part] for name in ("input_ids", "loss_mask"))
    begin = int(np.argmax(mask)) if mask.any() else 0
    asked, answer = (spelled(tokenizer, tokens.tolist()) for tokens in (ids[:begin], ids[begin:]))
    return asked[-SHOWN_CHARACTERS:], answer[:SHOWN_CHARACTERS]
