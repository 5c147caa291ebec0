"""The verdict at the top of the page: the outcome in one line that claims no more than the facts support."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from snaketune.facts.evaluation_facts import base_and_tuned, measured_count, score
from snaketune.report import units
from snaketune.report.report_facts import RunPageFacts
from snaketune.report.run.evaluation_table import METRICS
from snaketune.report.run.judging import (
    compared_answers,
    deciding,
    fallen_scores,
    gives_scores,
    judge,
    loss_may_be_chance,
    loss_sign,
    match_sign,
    mostly_cut,
    preference_sign,
    relative_fall,
)
from snaketune.report.run.merge_findings import missing_because, trained_thing
from snaketune.report.text import excerpt

HEADLINES = {
    "better": "Tuning made the model better on the held-out data",
    "worse": "Tuning made the model worse on the held-out data",
    "mixed": "Tuning made one measure better and another worse",
    "fewer": "The held-out loss fell, but fewer answers are right",
    "cut": "Better by its measures, but most answers were cut off at max_new_tokens",
    "loss_only": "The held-out loss fell, but no answer became right",
    "unsure": "The held-out loss fell, but its uncertainty is unknown",
    "slight": "The held-out loss fell, but by less than 1%",
    "same": "Tuning made no clear difference on the held-out data",
    "few": "Too little held-out data to say whether the model is better",
    "unknown": "Trained, but not compared with the base model",
}


PREFERENCES = "The chosen answers gained on the rejected ones"
SMALL_FALL = 0.1
"""Below this share, a fall of the loss is also given in per cent: two numbers with three digits hardly show it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the band: a label, the value, and a line below it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``outcome`` is what :func:`snaketune.report.run.judging.judge` returns."""

    outcome: str
    headline: str
    sentence: str
    figures: tuple[Figure, ...]


def verdict(facts: RunPageFacts) -> Verdict:
    """Return the verdict on a run."""
    outcome = judge(facts.evaluation, facts.answers)
    parts = (
        training_part(facts),
        preference_part(facts),
        match_part(facts),
        cut_part(facts),
        *fallen_parts(facts),
        loss_part(facts),
        merge_part(facts),
    )
    sentence = "; ".join(part for part in parts if part) + "."
    return Verdict(outcome, headline(outcome, facts), sentence, figures(facts))


def headline(outcome: str, facts: RunPageFacts) -> str:
    """Return the headline; after training on pairs it is about preferences instead of the loss."""
    if preference_sign(facts.evaluation) is None:
        return HEADLINES[outcome]
    return HEADLINES[outcome].replace("The held-out loss fell", PREFERENCES)


def training_part(facts: RunPageFacts) -> str:
    """Return how long and on how much was trained."""
    steps, tokens = facts.adapter["steps"], facts.pack["splits"]["train"]["tokens"]
    text = "Trained" if steps is None else f"Trained {units.count(steps, 'step')}"
    return text if tokens is None else f"{text} on a training set of {units.count(tokens, 'token')}"


def preference_part(facts: RunPageFacts) -> str:
    """Return the change of the preferences; nothing if the data are not pairs."""
    sign, pairs = preference_sign(facts.evaluation), compared_answers(facts.evaluation)
    if sign is None:
        return ""
    chance = "" if sign else ", which may be chance"
    if gives_scores(facts.evaluation):
        before, after = (units.percent(value) for value in base_and_tuned(facts.evaluation, "preference_accuracy"))
        text = f"the chosen answer has the higher score in {after} of {units.count(pairs, 'held-out pair')}"
        return f"{text}, with an untrained head in {before}{chance}"
    gained = units.percent(score(facts.evaluation["tuned"], "reward_accuracy"))
    if measured_count(facts.evaluation["tuned"], "n_matched"):
        return f"a good answer gained on a bad one in {gained} of {units.count(pairs, 'held-out comparison')}{chance}"
    base, tuned = base_and_tuned(facts.evaluation, "preference_accuracy")
    text = f"the chosen answer gained on the rejected one in {gained} of {units.count(pairs, 'held-out pair')}"
    return f"{text}{chance}; it is the more likely one in {units.percent(tuned)}, before in {units.percent(base)}"


def match_part(facts: RunPageFacts) -> str:
    """Return the change of exact match, or of the measure in its place, and whether it may be chance."""
    if gives_scores(facts.evaluation):
        return ""
    key = deciding(facts.evaluation["tuned"])
    base, tuned = base_and_tuned(facts.evaluation, key)
    cases = measured_count(facts.evaluation["tuned"], "n_generated") or 0
    if tuned is None or not cases:
        return "no answers were generated, so exact match is unknown"
    what = f"{_label(key).lower()} on {units.count(cases, 'held-out request')}"
    if base is None:
        return f"{what} is {units.percent(tuned)}, that of the base model is unknown"
    if base == tuned:
        return f"{what} stayed at {units.percent(tuned)}"
    verb = "rose" if tuned > base else "fell"
    moved = f"{what} {verb} from {units.percent(base)} to {units.percent(tuned)}"
    return moved if match_sign(base, tuned, cases, facts.answers) else f"{moved}, which may be chance"


def cut_part(facts: RunPageFacts) -> str:
    """Return how many answers were cut off, if most of them were."""
    if not mostly_cut(facts.evaluation):
        return ""
    tuned = facts.evaluation["tuned"]
    cut, made = measured_count(tuned, "n_cut"), measured_count(tuned, "n_generated")
    return f"{units.count(cut)} of {units.count(made)} answers were cut off at max_new_tokens"


def fallen_parts(facts: RunPageFacts) -> list[str]:
    """Return the scores of answers that fell significantly, except correct answers, which are always reported."""
    told = ("", deciding(facts.evaluation["tuned"]))
    return [
        f"{_label(key)}{f' on {excerpt(file, 100).text}' if file else ''} fell by"
        f" {METRICS[key].write_difference(abs(found.get('difference') or 0.0)).lstrip('+')}"
        for file, key, found in fallen_scores(facts.evaluation)
        if (file, key) != told
    ]


def loss_part(facts: RunPageFacts) -> str:
    """Return the change of the held-out loss."""
    base, tuned = base_and_tuned(facts.evaluation, "loss")
    if tuned is None:
        return "held-out loss was not measured"
    before = "" if base is None else f"{units.significant(base)} \u2192 "
    what = "held-out loss" if preference_sign(facts.evaluation) is None else "loss of the chosen answers"
    what = "loss of the held-out pairs" if gives_scores(facts.evaluation) else what
    chance = ", which may be chance" if loss_may_be_chance(facts.evaluation) else ""
    fall = relative_fall(facts.evaluation)
    small = f", {units.percent(fall)} lower" if loss_sign(facts.evaluation) == 1 and fall < SMALL_FALL else ""
    return f"{what} {before}{units.significant(tuned)}{small}{chance}"


def merge_part(facts: RunPageFacts) -> str:
    """Return whether the merged model is the tuned model, which only a check can say."""
    if facts.merged is None:
        return "no merged model was made"
    if missing_because(facts):
        return "the merged model is missing, because its merge was refused or failed"
    found = facts.merged["check"]["verdict"] if facts.merged else None
    if found is None:
        return "the merged model was not checked"
    verb = "equals" if found in ("equal", "rounded") else "does not equal"
    combined = len(facts.merged["combination"]["adapters"]) if facts.merged else 0
    thing = f"the combination of {combined} adapters" if combined else trained_thing(facts)
    return f"merged model {verb} {thing}{' up to rounding' if found == 'rounded' else ''}"


def figures(facts: RunPageFacts) -> tuple[Figure, ...]:
    """Return the numbers of the band."""
    trained, total = facts.adapter["trainable_parameters"], facts.adapter["total_parameters"]
    of_total = f"{units.share(trained, total)} of {units.count(total)}" if total else ""
    key = deciding(facts.evaluation["tuned"]) or "exact_match"
    first = _change(_label(key), facts, key, units.percent, "n_generated", "held-out request")
    if gives_scores(facts.evaluation):
        first = _change("Reward margin", facts, "reward_margin", units.significant, "n", "held-out pair")
    return (
        first,
        _main_figure(facts),
        Figure("Optimizer steps", units.count(facts.adapter["steps"]), _tokens_seen(facts)),
        Figure("Trained parameters", units.count(trained), of_total),
    )


def _label(key: str | None) -> str:
    return METRICS[key or "exact_match"].label


def _main_figure(facts: RunPageFacts) -> Figure:
    if preference_sign(facts.evaluation) is None:
        return _change("Held-out loss", facts, "loss", units.significant, "n", "held-out record")
    return _change("Preference accuracy", facts, "preference_accuracy", units.percent, "n", "held-out pair")


def _change(
    label: str,
    facts: RunPageFacts,
    metric: str,
    write: Callable[[float], str],
    cases: Literal["n", "n_generated"],
    noun: str,
) -> Figure:
    base, tuned = base_and_tuned(facts.evaluation, metric)
    if tuned is None:
        return Figure(label, units.NOT_MEASURED)
    number = measured_count(facts.evaluation["tuned"], cases)
    note = units.count(number, noun) if number is not None else ""
    return Figure(label, write(tuned) if base is None else f"{write(base)} \u2192 {write(tuned)}", note)


def _tokens_seen(facts: RunPageFacts) -> str:
    """Return the tokens that training saw, counting repeats; known only when the last step was logged."""
    tokens, points = facts.adapter["tokens"], facts.curves["loss"].points
    if tokens is None or not points or points[-1][0] != facts.adapter["steps"]:
        return ""
    return f"{units.count(tokens, 'token')} seen"
