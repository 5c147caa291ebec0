"""evaluation.json: what the base, the tuned and the merged model measured on held-out data."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, cast

from snaketune.facts.fact_files import FactFile


class Scores(TypedDict, total=False):
    """The measures of one model, those that were asked for; a measure by another name is a number as well.

    ``n`` counts records, ``n_matched`` comparisons of a good with a bad answer where answers are not paired,
    ``n_generated`` answers, ``n_cut`` answers without an end, ``n_scored`` the answers that a measure applies to;
    ``decided_by`` names the measure that calls an answer right. Of a reward model, which has a ``reward_margin``,
    ``loss`` is that of a pair and ``preference_accuracy`` ranks by score; ``reward`` is the mean score that a reward
    model gives answers.
    """

    n: int | None
    n_matched: int | None
    n_generated: int | None
    n_cut: int | None
    n_scored: dict[str, int]
    decided_by: str | None
    loss: float | None
    perplexity: float | None
    bits_per_byte: float | None
    token_accuracy: float | None
    exact_match: float | None
    numeric_match: float | None
    json_valid: float | None
    json_equal: float | None
    chrf: float | None
    bleu: float | None
    rouge_l: float | None
    preference_accuracy: float | None
    reward_accuracy: float | None
    reward_margin: float | None
    reward: float | None


class Interval(TypedDict, total=False):
    """A difference of two measures with its 95% interval."""

    difference: float | None
    low: float | None
    high: float | None


class Compared(TypedDict):
    """Models measured on the same data; ``differences`` by step (``tuned_minus_base``) and measure."""

    base: Scores | None
    tuned: Scores | None
    merged: Scores | None
    differences: dict[str, dict[str, Interval]]


class FileScores(Compared):
    """The measures of an external file; ``left_out`` counts questions that could not be put to the model."""

    left_out: int | None


class Group(TypedDict):
    """The losses over some of the held-out documents."""

    n: int | None
    tokens: int | None
    base: Scores | None
    tuned: Scores | None
    difference: dict[str, Interval]


class SourceGroup(Group):
    """Metrics of one source, by its number."""

    source: int | None


LengthGroup = TypedDict(
    "LengthGroup",
    {
        "from": int,
        "to": int,
        "n": int | None,
        "tokens": int | None,
        "base": Scores | None,
        "tuned": Scores | None,
        "difference": dict[str, Interval],
    },
)
"""Those of documents of ``from`` (inclusive) to ``to`` (exclusive) tokens."""


class TaskScores(TypedDict):
    """A task of lm-evaluation-harness; measures are called ``name,filter``."""

    version: float | str | None
    n: int | None
    base: dict[str, float]
    tuned: dict[str, float]
    merged: dict[str, float]


class ChangedAnswers(TypedDict):
    """Number of answers of the merged model that differ from the adapter's."""

    n: int
    changed: int | None


class ScoreHistogram(TypedDict):
    """How many answers of held-out pairs got a score between two edges."""

    edges: list[float]
    chosen: list[int]
    rejected: list[int]


class ScoredPair(TypedDict):
    """A held-out pair with the scores of its answers; texts are excerpts."""

    record: int
    prompt: str
    chosen: str
    chosen_score: float
    rejected: str
    rejected_score: float


class Evaluation(Compared):
    """evaluation.json; ``scores`` and ``scored_pairs`` are those of a tuned reward model."""

    by_source: list[SourceGroup]
    by_length: list[LengthGroup]
    files: dict[str, FileScores]
    tasks: dict[str, TaskScores]
    changed_answers: ChangedAnswers | None
    stop_tokens: list[int]
    scores: ScoreHistogram
    scored_pairs: list[ScoredPair]


EVALUATION = FactFile(Evaluation)
ModelName = Literal["base", "tuned", "merged"]
MODELS: tuple[ModelName, ...] = ("base", "tuned", "merged")


def score(scores: Scores | None, name: str | None) -> float | None:
    """Return a measure or a count by its name; None where it was not measured."""
    value = cast(Mapping[str, Any], scores or {}).get(name or "")
    return value if isinstance(value, int | float) else None


def measured_count(scores: Scores | None, name: Literal["n", "n_matched", "n_generated", "n_cut"]) -> int | None:
    """Return how many records or answers a model was measured on; None where it was not."""
    return scores.get(name) if scores else None


def base_and_tuned(compared: Compared, name: str | None) -> tuple[float | None, float | None]:
    """Return a measure before and after tuning."""
    return score(compared["base"], name), score(compared["tuned"], name)
