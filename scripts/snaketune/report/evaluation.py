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
MODELS = ("base", "tuned", "merged")
COUNTS = ("n", "n_generated")
CUT = "n_cut"  # answers without an end, no measure


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, and below it a 95% interval and a word."""

    text: str
    note: str = ""
    interval: str = ""


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


def table(evaluation: Mapping[str, Any], answers: Answers | None = None) -> tuple[Row, ...]:
    """Return the rows of the evaluation table: known metrics first, then any other number of the facts."""
    present = {key for model in MODELS for key in look(evaluation, model) or {}} - {*COUNTS, CUT}
    known = [key for key in METRICS if key in present]
    others = sorted(key for key in present - set(METRICS) if _is_number(evaluation, key))
    return tuple(_row(evaluation, key, answers or Answers()) for key in known + others)


def cases(evaluation: Mapping[str, Any]) -> str:
    """Return how much held-out data the measures rest on, as sentences."""
    records, generated = (look(evaluation, f"tuned.{key}") for key in COUNTS)
    over = [f"Losses over {units.count(records, 'held-out record')}."] if records else []
    over += (
        [f"Answers to {units.count(generated, 'held-out request')}, with 95% Wilson intervals."] if generated else []
    )
    if look(evaluation, "differences"):
        over.append("Differences have 95% intervals from a paired bootstrap over the same cases.")
    return " ".join(over)


def _is_number(evaluation: Mapping[str, Any], key: str) -> bool:
    return all(value is None or isinstance(value, int | float) for value in _values(evaluation, key))


def _values(evaluation: Mapping[str, Any], key: str) -> list[Any]:
    """Return a metric of base, tuned and merged model; its name may hold dots."""
    return [(look(evaluation, model) or {}).get(key) for model in MODELS]


def _row(evaluation: Mapping[str, Any], key: str, answers: Answers) -> Row:
    metric = METRICS.get(key) or Metric(key, "", None, units.plain, units.signed)
    base, tuned, merged = _values(evaluation, key)
    return Row(
        label=metric.label,
        meaning=metric.meaning,
        base=_value(metric, key, look(evaluation, "base"), base),
        tuned=_value(metric, key, look(evaluation, "tuned"), tuned),
        tuning=_tuning(metric, evaluation, key, answers),
        merged=_value(metric, key, look(evaluation, "merged"), merged),
        merging=_difference(metric, tuned, merged, _moved(evaluation, "merged_minus_tuned", key)),
    )


def _value(metric: Metric, key: str, model: Any, value: float | None) -> Cell:
    if some := look(model, f"n_scored.{key}"):
        return Cell(metric.write(value), f"of {units.count(some, 'answer')}")
    cases = look(model, "n_generated")
    if key != deciding(model) or value is None or not cases:
        return Cell(metric.write(value))
    low, high = interval(value, cases)
    return Cell(metric.write(value), f"95%: {units.percent(low)} to {units.percent(high)}")


def _tuning(metric: Metric, evaluation: Mapping[str, Any], key: str, answers: Answers) -> Cell:
    base, tuned, _ = _values(evaluation, key)
    moved = _moved(evaluation, "tuned_minus_base", key)
    cell = _difference(metric, base, tuned, moved)
    if cell.note or not cell.text or metric.higher_is_better is None:
        return cell
    sign = _clear_sign(moved)
    if key == deciding(look(evaluation, "tuned")):
        sign = match_sign(base, tuned, look(evaluation, "tuned.n_generated") or 0, answers)
    elif sign is None:
        sign = 1 if tuned > base else -1
    word = "may be chance" if sign == 0 else "better" if (sign > 0) == metric.higher_is_better else "worse"
    return Cell(cell.text, word, cell.interval)


def _difference(metric: Metric, before: float | None, after: float | None, moved: Mapping[str, Any]) -> Cell:
    if before is None or after is None:
        return Cell("")
    difference = after - before
    if difference == 0:
        return Cell("0", "equal")
    low, high = moved.get("low"), moved.get("high")
    written = metric.write_difference
    within = "" if low is None or high is None else f"95%: {written(low)} to {written(high)}"
    return Cell(written(difference), interval=within)


def _moved(evaluation: Mapping[str, Any], step: str, key: str) -> Mapping[str, Any]:
    """Return the difference of a measure with its interval, nothing where it was not computed."""
    return (look(evaluation, f"differences.{step}") or {}).get(key) or {}


def _clear_sign(moved: Mapping[str, Any]) -> int | None:
    """Return 1 or -1 where the 95% interval of a difference lies on one side of 0, 0 where not, None without one."""
    low, high = moved.get("low"), moved.get("high")
    if low is None or high is None:
        return None
    return 1 if low > 0 else -1 if high < 0 else 0


def deciding(model: Any) -> str | None:
    """Return the measure that calls an answer right or wrong: exact match where the facts do not say."""
    return look(model, "decided_by") or ("exact_match" if look(model, "exact_match") is not None else None)


def judge(evaluation: Mapping[str, Any], answers: Answers) -> str:
    """Return what tuning did: better, worse, mixed, same, few (too little held-out data) or unknown.

    Exact match (or the measure of right answers in its place) counts when it differs by more than chance (McNemar's
    exact test over the paired answers, p below 0.05); held-out loss counts when the 95% interval of its difference
    leaves out 0, or without an interval when it moved by more than 0.1%. On pairs it is not the loss that counts, which
    learning preferences may well raise, but whether chosen answers gained more than rejected ones in more pairs than
    chance explains (sign test, p below 0.05). Below 20 held-out records nothing is called.
    """
    if not look(evaluation, "base") or not look(evaluation, "tuned"):
        return "unknown"
    preference = preference_sign(evaluation)
    main = _loss_sign(evaluation) if preference is None else preference
    signs = [sign for sign in (main, _match_sign(evaluation, answers)) if sign is not None]
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
    clear = _clear_sign(_moved(evaluation, "tuned_minus_base", "loss"))
    if clear is not None:
        return -clear
    if abs(tuned - base) <= SAME_LOSS * abs(base):
        return 0
    return 1 if tuned < base else -1


def loss_may_be_chance(evaluation: Mapping[str, Any]) -> bool:
    """Tell whether the losses differ, but by no more than chance may explain."""
    moved = _moved(evaluation, "tuned_minus_base", "loss")
    return bool(moved.get("difference")) and _clear_sign(moved) == 0


def preference_sign(evaluation: Mapping[str, Any]) -> int | None:
    """Return 1 or -1 where tuning moved the pairs one way, 0 where that may be chance, None without pairs."""
    fraction, pairs = look(evaluation, "tuned.reward_accuracy"), look(evaluation, "tuned.n")
    if fraction is None or not pairs:
        return None
    gained = round(fraction * pairs)
    if sign_test(gained, pairs - gained) >= CHANCE:
        return 0
    return 1 if 2 * gained > pairs else -1


def _match_sign(evaluation: Mapping[str, Any], answers: Answers) -> int | None:
    key = deciding(look(evaluation, "tuned"))
    base, tuned = (look(evaluation, f"{model}.{key}") for model in ("base", "tuned"))
    if base is None or tuned is None:
        return None
    return match_sign(base, tuned, look(evaluation, "tuned.n_generated") or 0, answers)


def match_sign(base: float, tuned: float, cases: int, answers: Answers) -> int:
    """Return 1, -1, or 0 where the difference of two fractions of right answers may be chance.

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
