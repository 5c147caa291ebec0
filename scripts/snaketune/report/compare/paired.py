"""Paired differences of two runs over the held-out records that both were evaluated on, with intervals."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snaketune.evaluate.additive import Additive, measure_differences
from snaketune.facts.evaluation_facts import Interval
from snaketune.facts.lines import DocumentLine, GenerationLine, read_lines
from snaketune.report.compare.comparison import RunFacts
from snaketune.report.run.judging import clear_sign

# Measures that are the mean of per-answer scores; BLEU and chrF are not.
MEANS = ("exact_match", "json_equal", "numeric_match", "json_valid", "rouge_l")
LIKE_LOSS = ("perplexity", "bits_per_byte")
"""Measures that are monotonic in the loss, on the same records with the same tokenizer."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of a run's tuned model on each held-out record; records are identified by their requests.

    Attributes:
        documents: summed loss in nats and loss-bearing tokens of each document, by record and place in the record.
        answers: the scores of each answer, by request and reference.
        data: the digest of the data, within which the numbers of records mean the same.
    """

    documents: Mapping[tuple[int, int], tuple[float, int]]
    answers: Mapping[tuple[str, str], Mapping[str, float]]
    data: Any


@dataclass(frozen=True, slots=True)
class Shared:
    """Second run minus first over the cases that both were evaluated on: intervals by measure, and numbers of cases."""

    moved: Mapping[str, Interval]
    documents: int
    answers: int

    def sign(self, key: str) -> int | None:
        """Return 1 or -1 where a measure is clearly higher or lower in the second run, 0 where not, None if unknown."""
        return clear_sign(self.moved.get("loss" if key in LIKE_LOSS else key) or {})


def scored(run: RunFacts) -> Scored:
    """Read the scores of a run's tuned model on each record; measures that the run did not write are absent."""
    documents = _documents(_lines(run.folder / "documents.jsonl", DocumentLine))
    return Scored(
        documents, _answers(_lines(run.folder / "generations.jsonl", GenerationLine)), run.run["digests"].get("data")
    )


def _lines(path: Path, kind: type[Any]) -> Iterable[Mapping[str, Any]]:
    return read_lines(path, kind) if path.is_file() else ()


def _documents(lines: Iterable[Mapping[str, Any]]) -> dict[tuple[int, int], tuple[float, int]]:
    places: Counter[int] = Counter()
    found = {}
    for line in lines:
        if line.get("rejected") or line.get("tuned_nll") is None:
            continue
        # A record may yield several documents; they are told by their order, which is the same for equal data.
        record = line["record"]
        found[record, places[record]] = (float(line["tuned_nll"]), line["tokens"])
        places[record] += 1
    return found


def _answers(lines: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, float]]:
    """Return the scores by request; of a request that was asked twice, the first counts."""
    found: dict[tuple[str, str], Mapping[str, float]] = {}
    for line in lines:
        if "file" not in line and (scores := (line.get("scores") or {}).get("tuned")):
            found.setdefault((str(line.get("prompt")), str(line.get("reference"))), scores)
    return found


def compare_runs(first: Scored, second: Scored) -> Shared:
    """Return how two runs differ on the cases that both were evaluated on.

    Documents are the same where the data are, answers where request and reference are. The intervals are those of a
    paired bootstrap (:func:`snaketune.evaluate.additive.measure_differences`).
    """
    # Record numbers mean the same only within the same data; answers are matched by their text and need no such
    # condition.
    documents = sorted(set(first.documents) & set(second.documents)) if first.data == second.data else []
    answers = sorted(set(first.answers) & set(second.answers))
    moved = measure_differences(*(_loss_of(side, documents) for side in (first, second)))
    moved |= measure_differences(*(_means_of(side, answers, (first, second)) for side in (first, second)))
    return Shared(moved, len(documents), len(answers))


def _loss_of(side: Scored, documents: Sequence[tuple[int, int]]) -> dict[str, Additive]:
    if not documents:
        return {}
    parts = np.array([side.documents[one] for one in documents], dtype=np.float64)
    return {"loss": Additive(parts, _ratio)}


def _means_of(side: Scored, requests: Sequence[tuple[str, str]], both: Sequence[Scored]) -> dict[str, Additive]:
    """Return the measures that are means, each over the requests that it applies to."""
    found = {}
    for key in MEANS:
        applies = [all(key in one.answers[request] for one in both) for request in requests]
        if any(applies):
            scores = [float(side.answers[one].get(key, 0.0)) for one in requests]
            # Two sums, of the scores and of the answers that have one: their ratio is the mean over those answers in
            # every resample.
            found[key] = Additive(np.array([scores, applies], dtype=np.float64).T * np.array(applies)[:, None], _ratio)
    return found


def _ratio(sums: np.ndarray) -> float | None:
    return float(sums[0] / sums[1]) if sums[1] else None
