"""Base, tuned and merged model in one table, and what the difference means."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from snaketune.facts.evaluation_facts import MODELS, Compared, Interval, Scores, measured_count, score
from snaketune.report import units
from snaketune.report.run.answers import ShownAnswers
from snaketune.report.run.judging import clear_sign, deciding, match_sign, moved
from snaketune.report.significance import interval

SAME_LOSS = 1e-4
"""How far a measure of the merged model may lie from the tuned one's, relative to it, and be called equal."""


@dataclass(frozen=True, slots=True)
class Metric:
    """Name and format of a metric; ``higher_is_better`` is None if unknown."""

    label: str
    meaning: str
    higher_is_better: bool | None
    write: Callable[[float | None], str]
    write_difference: Callable[[float | None], str]


METRICS = {
    "exact_match": Metric(
        "Exact match", "answers equal to the reference, higher is better", True, units.percent, units.points
    ),
    "json_equal": Metric(
        "Equal JSON", "answers that are the reference's JSON, higher is better", True, units.percent, units.points
    ),
    "numeric_match": Metric(
        "Right number",
        "answers that end in the reference's number, higher is better",
        True,
        units.percent,
        units.points,
    ),
    "json_valid": Metric(
        "Valid JSON",
        "answers that are JSON where the reference is, higher is better",
        True,
        units.percent,
        units.points,
    ),
    "preference_accuracy": Metric(
        "Preference accuracy",
        "chosen answer likelier than the rejected one, higher is better",
        True,
        units.percent,
        units.points,
    ),
    "reward_accuracy": Metric(
        "Reward accuracy",
        "chosen answer gained more over the base than the rejected one, chance is 50%",
        True,
        units.percent,
        units.points,
    ),
    "reward": Metric(
        "Reward",
        "mean score of the answers by evaluate.reward_model, higher is better",
        True,
        units.plain,
        units.signed,
    ),
    "reward_margin": Metric(
        "Reward margin",
        "score of the chosen answer less the rejected one's, higher is better",
        True,
        units.plain,
        units.signed,
    ),
    "token_accuracy": Metric(
        "Token accuracy", "next tokens predicted right, higher is better", True, units.percent, units.points
    ),
    "loss": Metric("Loss", "nats per trained token, lower is better", False, units.plain, units.signed),
    "perplexity": Metric("Perplexity", "e to the loss, lower is better", False, units.plain, units.signed),
    "bits_per_byte": Metric(
        "Bits per byte", "comparable across tokenizers, lower is better", False, units.plain, units.signed
    ),
    "chrf": Metric("chrF", "0 to 100, higher is better", True, units.plain, units.signed),
    "bleu": Metric("BLEU", "0 to 100, higher is better", True, units.plain, units.signed),
    "rouge_l": Metric("ROUGE-L", "0 to 1, higher is better", True, units.plain, units.signed),
}
# What two of these mean of a reward model.
SCORED = {
    "preference_accuracy": "chosen answer has the higher score, higher is better, chance is 50%",
    "loss": "nats per pair, lower is better",
}
COUNTS: tuple[Literal["n", "n_generated"], ...] = ("n", "n_generated")
CUT_ANSWERS = "n_cut"  # answers without an end, no measure


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, and below it a 95% interval and a word."""

    text: str
    note: str = ""
    interval: str = ""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric over the models; ``tuning`` is tuned minus base, ``merging`` is merged minus tuned."""

    label: str
    meaning: str
    base: Cell
    tuned: Cell
    tuning: Cell
    merged: Cell
    merging: Cell


def metric_rows(evaluation: Compared, answers: ShownAnswers | None = None) -> tuple[MetricRow, ...]:
    """Return the rows of the evaluation table: known metrics first, then any other number of the facts."""
    present = {key for model in MODELS for key in evaluation[model] or {}} - {*COUNTS, CUT_ANSWERS}
    known = [key for key in METRICS if key in present]
    others = sorted(key for key in present - set(METRICS) if _is_number(evaluation, key))
    return tuple(_row(evaluation, key, answers or ShownAnswers()) for key in known + others)


def held_out_sentences(evaluation: Compared) -> str:
    """Return how much held-out data the measures rest on, as sentences."""
    records, generated = (measured_count(evaluation["tuned"], key) for key in COUNTS)
    what = ("Losses", "record") if score(evaluation["tuned"], "reward_margin") is None else ("Scores", "pair")
    over = [f"{what[0]} over {units.count(records, f'held-out {what[1]}')}."] if records else []
    over += (
        [f"Answers to {units.count(generated, 'held-out request')}, with 95% Wilson intervals."] if generated else []
    )
    if evaluation["differences"]:
        over.append("Differences have 95% intervals from a paired bootstrap over the same cases.")
    return " ".join(over)


def _is_number(evaluation: Compared, key: str) -> bool:
    raw = (cast(Mapping[str, Any], evaluation[model] or {}).get(key) for model in MODELS)
    return all(value is None or isinstance(value, int | float) for value in raw)


def _values(evaluation: Compared, key: str) -> list[float | None]:
    """Return a metric of base, tuned and merged model; its name may hold dots."""
    return [score(evaluation[model], key) for model in MODELS]


def _row(evaluation: Compared, key: str, answers: ShownAnswers) -> MetricRow:
    metric = METRICS.get(key) or Metric(key, "", None, units.plain, units.signed)
    base, tuned, merged = _values(evaluation, key)
    scores = score(evaluation["tuned"], "reward_margin") is not None
    return MetricRow(
        label=metric.label,
        meaning=SCORED.get(key, metric.meaning) if scores else metric.meaning,
        base=_value(metric, key, evaluation["base"], base),
        tuned=_value(metric, key, evaluation["tuned"], tuned),
        tuning=_tuning(metric, evaluation, key, answers),
        merged=_value(metric, key, evaluation["merged"], merged),
        merging=_merging(metric, tuned, merged, moved(evaluation, "merged_minus_tuned", key)),
    )


def _value(metric: Metric, key: str, model: Scores | None, value: float | None) -> Cell:
    if some := (model or {}).get("n_scored", {}).get(key):
        return Cell(metric.write(value), f"of {units.count(some, 'answer')}")
    cases = measured_count(model, "n_generated")
    if key != deciding(model) or value is None or not cases:
        return Cell(metric.write(value))
    low, high = interval(value, cases)
    return Cell(metric.write(value), f"95%: {units.percent(low)} to {units.percent(high)}")


def _tuning(metric: Metric, evaluation: Compared, key: str, answers: ShownAnswers) -> Cell:
    base, tuned, _ = _values(evaluation, key)
    difference = moved(evaluation, "tuned_minus_base", key)
    cell = _difference(metric, base, tuned, difference)
    if cell.note or not cell.text or metric.higher_is_better is None or base is None or tuned is None:
        return cell
    sign = clear_sign(difference)
    if key == deciding(evaluation["tuned"]):
        sign = match_sign(base, tuned, measured_count(evaluation["tuned"], "n_generated") or 0, answers)
    elif sign is None:
        sign = 1 if tuned > base else -1
    word = "may be chance" if sign == 0 else "better" if (sign > 0) == metric.higher_is_better else "worse"
    return Cell(cell.text, word, cell.interval)


def _merging(metric: Metric, tuned: float | None, merged: float | None, difference: Interval) -> Cell:
    """Return merged minus tuned; values that agree in all shown digits are equal."""
    if tuned is not None and merged is not None and abs(merged - tuned) <= SAME_LOSS * abs(tuned):
        return Cell("equal")
    return _difference(metric, tuned, merged, difference)


def _difference(metric: Metric, before: float | None, after: float | None, moved: Interval) -> Cell:
    if before is None or after is None:
        return Cell("")
    difference = after - before
    if difference == 0:
        return Cell("0", "equal")
    low, high = moved.get("low"), moved.get("high")
    written = metric.write_difference
    within = "" if low is None or high is None else f"95%: {written(low)} to {written(high)}"
    return Cell(written(difference), interval=within)
