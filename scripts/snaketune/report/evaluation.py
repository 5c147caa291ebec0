"""Base, tuned and merged model in one table, and what the difference means."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from snaketune.report import units
from snaketune.report.answers import Answers
from snaketune.report.chance import interval, sign_test
from snaketune.report.facts import look

MINIMUM_RECORDS = 20
CHANCE = 0.05
SAME_LOSS = 0.001


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is called and written; ``higher_is_better`` is None where the report cannot know."""

    label: str
    meaning: str
    higher_is_better: bool | None
    write: Callable[[float | None], str]
    write_difference: Callable[[float | None], str]


LOWER, HIGHER = "lower is better", "higher is better"
METRICS = {
    "exact_match": Metric(
        "Exact match", "answers equal to the reference, higher is better", True, units.percent, units.points
    ),
    "token_accuracy": Metric(
        "Token accuracy", "next tokens predicted right, higher is better", True, units.percent, units.points
    ),
    "loss": Metric("Loss", "nats per trained token, lower is better", False, units.plain, units.signed),
    "perplexity": Metric("Perplexity", "e to the loss, lower is better", False, units.plain, units.signed),
    "bits_per_byte": Metric(
        "Bits per byte", "comparable across tokenizers, lower is better", False, units.plain, units.signed
    ),
    "chrf": Metric("chrF", HIGHER, True, units.plain, units.signed),
    "bleu": Metric("BLEU", HIGHER, True, units.plain, units.signed),
    "rouge_l": Metric("ROUGE-L", HIGHER, True, units.plain, units.signed),
}
COUNTS = ("n", "n_generated")


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, and below it a 95% interval or a word."""

    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric over the models; ``tuning`` is tuned minus base, ``merging`` is merged minus tuned."""

    label: str
    meaning: str
    base: Cell
    tuned: Cell
    tuning: Cell
    merged: Cell
    merging: Cell


def table(evaluation: Mapping[str, Any]) -> tuple[Row, ...]:
    """Return the rows of the evaluation table: known metrics first, then any other number of the facts."""
    present = {key for model in evaluation.values() if isinstance(model, Mapping) for key in model} - set(COUNTS)
    known = [key for key in METRICS if key in present]
    others = sorted(key for key in present - set(METRICS) if _is_number(evaluation, key))
    return tuple(_row(evaluation, key) for key in known + others)


def cases(evaluation: Mapping[str, Any]) -> str:
    """Return how much held-out data the measures rest on, as sentences."""
    records, generated = (look(evaluation, f"tuned.{key}") for key in COUNTS)
    over = [f"Losses over {units.count(records, 'held-out record')}."] if records else []
    over += (
        [f"Answers to {units.count(generated, 'held-out request')}, with 95% Wilson intervals."] if generated else []
    )
    return " ".join(over)


def _is_number(evaluation: Mapping[str, Any], key: str) -> bool:
    return all(value is None or isinstance(value, int | float) for value in _values(evaluation, key))


def _values(evaluation: Mapping[str, Any], key: str) -> list[Any]:
    """Return a metric of base, tuned and merged model; its name may hold dots."""
    return [(look(evaluation, model) or {}).get(key) for model in ("base", "tuned", "merged")]


def _row(evaluation: Mapping[str, Any], key: str) -> Row:
    metric = METRICS.get(key) or Metric(key, "", None, units.plain, units.signed)
    base, tuned, merged = _values(evaluation, key)
    return Row(
        label=metric.label,
        meaning=metric.meaning,
        base=_value(metric, key, look(evaluation, "base"), base),
        tuned=_value(metric, key, look(evaluation, "tuned"), tuned),
        tuning=_difference(metric, base, tuned, judged=True),
        merged=_value(metric, key, look(evaluation, "merged"), merged),
        merging=_difference(metric, tuned, merged, judged=False),
    )


def _value(metric: Metric, key: str, model: Any, value: float | None) -> Cell:
    cases = look(model, "n_generated")
    if key != "exact_match" or value is None or not cases:
        return Cell(metric.write(value))
    low, high = interval(value, cases)
    return Cell(metric.write(value), f"95%: {units.percent(low)} to {units.percent(high)}")


def _difference(metric: Metric, before: float | None, after: float | None, judged: bool) -> Cell:
    if before is None or after is None:
        return Cell("")
    difference = after - before
    if difference == 0:
        return Cell("0", "equal")
    if not judged or metric.higher_is_better is None:
        return Cell(metric.write_difference(difference))
    word = "better" if (difference > 0) == metric.higher_is_better else "worse"
    return Cell(metric.write_difference(difference), word)


def judge(evaluation: Mapping[str, Any], answers: Answers) -> str:
    """Return what tuning did: better, worse, mixed, same, few (too little held-out data) or unknown.

    Exact match counts when it differs by more than chance (McNemar's exact test over the paired answers, p below
    0.05); held-out loss counts when it moved by more than 0.1%. Below 20 held-out records nothing is called.
    """
    if not look(evaluation, "base") or not look(evaluation, "tuned"):
        return "unknown"
    signs = [sign for sign in (_loss_sign(evaluation), _match_sign(evaluation, answers)) if sign is not None]
    if not signs:
        return "unknown"
    if max(look(evaluation, "tuned.n") or 0, look(evaluation, "tuned.n_generated") or 0) < MINIMUM_RECORDS:
        return "few"
    found = set(signs) - {0}
    return {frozenset(): "same", frozenset({1}): "better", frozenset({-1}): "worse"}.get(frozenset(found), "mixed")


def _loss_sign(evaluation: Mapping[str, Any]) -> int | None:
    base, tuned = look(evaluation, "base.loss"), look(evaluation, "tuned.loss")
    if base is None or tuned is None:
        return None
    if abs(tuned - base) <= SAME_LOSS * abs(base):
        return 0
    return 1 if tuned < base else -1


def _match_sign(evaluation: Mapping[str, Any], answers: Answers) -> int | None:
    base, tuned = look(evaluation, "base.exact_match"), look(evaluation, "tuned.exact_match")
    if base is None or tuned is None:
        return None
    return match_sign(base, tuned, look(evaluation, "tuned.n_generated") or 0, answers)


def match_sign(base: float, tuned: float, cases: int, answers: Answers) -> int:
    """Return 1, -1, or 0 where the difference of two exact-match fractions may be chance.

    Without the paired answers of all cases the two 95% intervals must not overlap, which asks for more.
    """
    if base == tuned or not cases:
        return 0
    sign = 1 if tuned > base else -1
    if answers.paired == cases:
        p = sign_test(answers.counts.get("fixed", 0), answers.counts.get("broken", 0))
        return sign if p < CHANCE else 0
    lower, upper = sorted((base, tuned))
    return sign if interval(lower, cases)[1] < interval(upper, cases)[0] else 0
