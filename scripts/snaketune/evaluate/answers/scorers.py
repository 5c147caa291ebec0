"""Additive measures of generated answers against their references."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from snaketune.evaluate.additive import Additive
from snaketune.evaluate.answers.matching import normalizer, numeric_match
from snaketune.evaluate.evaluation_packages import ROUGE, SACREBLEU, package

# Measures that classify an answer as right or wrong. The first requested one that applies to every reference decides:
# if all references end in a number, that is the numeric match.
BY_REFERENCES = ("numeric_match", "exact_match", "json_equal")
# Measures that do not apply to every answer.
OF_SOME = (*BY_REFERENCES, "json_valid")
ANSWER_METRICS = (*BY_REFERENCES, "json_valid", "chrf", "bleu", "rouge_l")


@dataclass(frozen=True, slots=True)
class Scorer:
    """One measure.

    Attributes:
        parts: the numbers that an answer with its reference adds.
        value: the measure from their sums, None where no answer was scored.
        score: score of one answer, for display; None if it cannot be scored.
    """

    parts: Callable[[str, str], Sequence[float]]
    value: Callable[[np.ndarray], float | None]
    score: Callable[[str, str], float | bool | None]


def scorers(metrics: Collection[str], normalize: Sequence[str]) -> dict[str, Scorer]:
    """Return the scorers among ``metrics``; exact match is judged after the normalisers in ``normalize``."""
    made: dict[str, Callable[[], Scorer]] = {
        "exact_match": lambda: mean_of(exact_match(normalize)),
        "json_equal": lambda: mean_of(json_equal),
        "numeric_match": lambda: mean_of(numeric_match),
        "json_valid": lambda: mean_of(json_valid),
        "chrf": lambda: corpus(package(SACREBLEU).CHRF(), package(SACREBLEU).CHRF()),
        "bleu": lambda: corpus(package(SACREBLEU).BLEU(force=True), package(SACREBLEU).BLEU(effective_order=True)),
        "rouge_l": lambda: mean_of(rouge_l()),
    }
    return {name: make() for name, make in made.items() if name in metrics}


def score_answers(scorer: Scorer, answers: Sequence[str], references: Sequence[str]) -> Additive:
    """Return the measure over some answers."""
    parts = [scorer.parts(answer, reference) for answer, reference in zip(answers, references, strict=True)]
    return Additive(np.array(parts, np.float64), scorer.value)


def exact_match(normalize: Sequence[str]) -> Callable[[str, str], bool]:
    """Return the judge of whether an answer is the reference once both are normalised."""
    apply = normalizer(normalize)
    return lambda answer, reference: apply(answer) == apply(reference)


def json_valid(answer: str, reference: str) -> bool | None:
    """Tell whether an answer is JSON; None where the reference is not a JSON object or array."""
    if _document(reference) is None:
        return None
    try:
        orjson.loads(answer)
    except orjson.JSONDecodeError:
        return False
    return True


def json_equal(answer: str, reference: str) -> bool | None:
    """Tell whether an answer is the same JSON, in any order of keys and spacing; None as for validity."""
    wanted = _document(reference)
    if wanted is None:
        return None
    found = _document(answer)
    try:
        return found is not None and _canonical(found) == _canonical(wanted)
    except (RecursionError, orjson.JSONEncodeError):  # deeply nested brackets exceed the recursion limit
        return False


def _canonical(document: Any) -> bytes:
    # Serialised bytes, not values: in Python True == 1 == 1.0, in JSON only the latter are equal.
    return orjson.dumps(_numbers(document), option=orjson.OPT_SORT_KEYS)


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    # 1.0 and 1 are the same number in JSON; beyond 2^53 a float no longer tells neighbouring integers apart.
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53
    return int(value) if is_whole else value


def _document(text: str) -> Any:
    """Return the JSON object or array that ``text`` is; a bare number or word is not meant as JSON."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def mean_of(judge: Callable[[str, str], float | bool | None]) -> Scorer:
    """Return the scorer whose measure is the mean over the answers that ``judge`` gives a number."""

    def parts(answer: str, reference: str) -> tuple[float, float]:
        found = judge(answer, reference)
        return (0.0, 0.0) if found is None else (float(found), 1.0)

    return Scorer(parts, lambda sums: float(sums[0] / sums[1]) if sums[1] else None, judge)


def rouge_l() -> Callable[[str, str], float]:
    """Return the F1 of the longest common subsequence of words (Lin 2004), 0 to 1, as rouge-score has it."""
    scorer = package(f"{ROUGE}.rouge_scorer").RougeScorer(["rougeL"])
    return lambda answer, reference: float(scorer.score(reference, answer)["rougeL"].fmeasure)


def corpus(metric: Any, single: Any) -> Scorer:
    """Return a scorer from a metric of sacrebleu, 0 to 100; ``single`` scores one answer.

    The numbers that an answer adds are sacrebleu's own, from which it computes its intervals, too.
    """

    def parts(answer: str, reference: str) -> Sequence[float]:
        return metric._extract_corpus_statistics([answer], [[reference]])[0]

    def value(sums: np.ndarray) -> float | None:
        score = metric._compute_score_from_stats([round(number) for number in sums.tolist()]).score
        return float(score) if math.isfinite(score) else None

    return Scorer(parts, value, lambda answer, reference: float(single.sentence_score(answer, [reference]).score))
