"""The judgement whether tuning helped, which claims no more than the measures support."""

from collections.abc import Iterator

from snaketune.facts.evaluation_facts import (
    Compared,
    Evaluation,
    Interval,
    Scores,
    base_and_tuned,
    measured_count,
    score,
)
from snaketune.report.run.answers import ShownAnswers
from snaketune.report.significance import interval, sign_test

MINIMUM_RECORDS = 20
CHANCE = 0.05
MATTERS = 0.01
"""Share of the base model's loss by which the loss has to fall where nothing else shows an improvement."""
MOSTLY = 0.5
ANSWER_MEASURES = ("exact_match", "numeric_match", "json_equal", "json_valid", "chrf", "bleu", "rouge_l")


def judge(evaluation: Evaluation, answers: ShownAnswers) -> str:
    """Return what tuning did: better, worse, mixed, same, few (too little held-out data), unknown, or what is missing.

    Better needs an improvement beyond chance that matters: right answers that became more by McNemar's exact test over
    the paired answers (p below 0.05), or a held-out loss that fell by at least 1%, the 95% interval of its difference
    below 0. On pairs it is not the loss that counts, which learning preferences may well raise, but whether chosen
    answers gained more than rejected ones in more pairs than chance explains (sign test, p below 0.05). A clear fall of
    any score of answers beside an improvement is mixed. An improvement with a reservation is named after that:

    - ``fewer``: fewer answers are right, though that may be chance;
    - ``cut``: most answers were cut off at ``max_new_tokens``;
    - ``loss_only``: answers were scored, and none became right;
    - ``unsure``: the loss fell, but its difference has no interval;
    - ``slight``: the loss fell by less than 1%.

    Below 20 held-out records no verdict is given.
    """
    if not evaluation["base"] or not evaluation["tuned"]:
        return "unknown"
    preference, answered = preference_sign(evaluation), _answer_sign(evaluation, answers)
    main = loss_sign(evaluation) if preference is None else preference
    signs = [sign for sign in (main, answered) if sign is not None]
    if not signs:
        return "unknown"
    if (
        max(measured_count(evaluation["tuned"], "n") or 0, measured_count(evaluation["tuned"], "n_generated") or 0)
        < MINIMUM_RECORDS
    ):
        return "few"
    # Signs that may be chance neither support nor contradict the others.
    found = set(signs) - {0}
    # A score that fell on an external file counts against an improvement, but alone it does not make the run worse.
    if any(found or not file for file, _, _ in fallen_scores(evaluation)):
        found.add(-1)
    if found != {1}:
        return {frozenset(): "same", frozenset({-1}): "worse"}.get(frozenset(found), "mixed")
    return improvement_lacks(evaluation, answers) or "better"


def improvement_lacks(evaluation: Evaluation, answers: ShownAnswers) -> str:
    """Return the reservation about an improvement, or an empty string."""
    base, tuned = right_answers(evaluation)
    if base is not None and tuned is not None and tuned < base:
        return "fewer"
    if mostly_cut(evaluation):
        return "cut"
    if _answer_sign(evaluation, answers) == 1:
        return ""
    if tuned is not None and tuned < 1 and not _became_right(base, tuned, answers):
        return "loss_only"
    if preference_sign(evaluation) is not None:
        return ""
    if clear_sign(moved(evaluation, "tuned_minus_base", "loss")) is None:
        return "unsure"
    return "slight" if relative_fall(evaluation) < MATTERS else ""


def _became_right(base: float | None, tuned: float, answers: ShownAnswers) -> bool:
    return answers.counts.get("fixed", 0) > 0 if answers.paired else base is None or tuned > base


def right_answers(evaluation: Evaluation) -> tuple[float | None, float | None]:
    """Return the fractions of right answers of base and tuned model, None if answers were not judged."""
    key = deciding(evaluation["tuned"])
    return base_and_tuned(evaluation, key)


def mostly_cut(evaluation: Evaluation) -> bool:
    """Tell whether more than half of the tuned model's answers were cut off at ``max_new_tokens``."""
    cut, made = (
        measured_count(evaluation["tuned"], "n_cut") or 0,
        measured_count(evaluation["tuned"], "n_generated") or 0,
    )
    return cut > MOSTLY * made


def relative_fall(evaluation: Evaluation) -> float:
    """Return by which share of the base model's loss the loss fell; negative where it rose."""
    base, tuned = base_and_tuned(evaluation, "loss")
    return (base - tuned) / abs(base) if base and tuned is not None else 0.0


def fallen_scores(evaluation: Evaluation) -> list[tuple[str, str, Interval]]:
    """Return the scores of answers that fell beyond chance: the external file or empty, the measure, its difference."""
    return [
        (name, key, found)
        for name, part in _answered_parts(evaluation)
        for key in ANSWER_MEASURES
        if (found := moved(part, "tuned_minus_base", key)) and clear_sign(found) == -1
    ]


def _answered_parts(evaluation: Evaluation) -> Iterator[tuple[str, Compared]]:
    yield "", evaluation
    yield from evaluation["files"].items()


def moved(evaluation: Compared, step: str, key: str) -> Interval:
    """Return the difference of a measure with its interval, nothing where it was not computed."""
    return evaluation["differences"].get(step, {}).get(key) or {}


def clear_sign(difference: Interval) -> int | None:
    """Return 1 or -1 where the 95% interval of a difference lies on one side of 0, 0 where not, None without one."""
    low, high = difference.get("low"), difference.get("high")
    if low is None or high is None:
        return None
    return 1 if low > 0 else -1 if high < 0 else 0


def deciding(model: Scores | None) -> str | None:
    """Return the measure that decides whether an answer is right: exact match unless the facts name another."""
    named = model.get("decided_by") if model else None
    return named or ("exact_match" if score(model, "exact_match") is not None else None)


def loss_sign(evaluation: Evaluation) -> int | None:
    """Return 1 or -1 where the loss fell or rose, 0 where that may be chance, None where it is not known."""
    base, tuned = base_and_tuned(evaluation, "loss")
    if base is None or tuned is None:
        return None
    clear = clear_sign(moved(evaluation, "tuned_minus_base", "loss"))
    if clear is not None:
        return -clear
    return (tuned < base) - (tuned > base)


def loss_may_be_chance(evaluation: Evaluation) -> bool:
    """Tell whether the losses differ, but by no more than chance may explain."""
    found = moved(evaluation, "tuned_minus_base", "loss")
    return bool(found.get("difference")) and clear_sign(found) == 0


def preference_sign(evaluation: Evaluation) -> int | None:
    """Return 1 or -1 where tuning moved the pairs one way, 0 where that may be chance, None without pairs.

    Of a reward model that is the interval of the difference in how many pairs it ranks right.
    """
    if gives_scores(evaluation):
        return clear_sign(moved(evaluation, "tuned_minus_base", "preference_accuracy")) or 0
    fraction, pairs = score(evaluation["tuned"], "reward_accuracy"), compared_answers(evaluation)
    if fraction is None or not pairs:
        return None
    # The facts hold a fraction; the test needs the count.
    gained = round(fraction * pairs)
    if sign_test(gained, pairs - gained) >= CHANCE:
        return 0
    return 1 if 2 * gained > pairs else -1


def gives_scores(evaluation: Evaluation) -> bool:
    """Tell whether the models are reward models, which give answers scores."""
    return score(evaluation["tuned"], "reward_margin") is not None


def compared_answers(evaluation: Evaluation) -> int | None:
    """Return how many good answers were compared with a bad one: the pairs, or those that were matched for it."""
    return measured_count(evaluation["tuned"], "n_matched") or measured_count(evaluation["tuned"], "n")


def _answer_sign(evaluation: Evaluation, answers: ShownAnswers) -> int | None:
    base, tuned = right_answers(evaluation)
    if base is None or tuned is None:
        return None
    return match_sign(base, tuned, measured_count(evaluation["tuned"], "n_generated") or 0, answers)


def match_sign(base: float, tuned: float, cases: int, answers: ShownAnswers) -> int:
    """Return 1, -1, or 0 where the difference of two fractions of right answers may be chance.

    Without the paired answers of all cases the two 95% intervals must not overlap, a stricter test.
    """
    if base == tuned or not cases:
        return 0
    sign = 1 if tuned > base else -1
    if answers.paired == cases:
        p = sign_test(answers.counts.get("fixed", 0), answers.counts.get("broken", 0))
        return sign if p < CHANCE else 0
    lower, upper = sorted((base, tuned))
    # Disjoint intervals are a stricter criterion than a test of the difference, which is why pairs are preferred above.
    return sign if interval(lower, cases)[1] < interval(upper, cases)[0] else 0
