"""A set of requests with their references, what each model answered, and how that scores."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snaketune.data.conversations.reasoning import after_thoughts
from snaketune.evaluate.additive import Additive, measure_differences, values
from snaketune.evaluate.answers.prompts import Prompt
from snaketune.evaluate.answers.scorers import BY_REFERENCES, OF_SOME, Scorer, score_answers
from snaketune.facts.evaluation_facts import Interval

TEMPLATE_REFUSES = "refused by the chat template"
TOO_LONG = "fills the model's context"
# The measure of a reward model.
REWARD = "reward"
OUTCOME_NAMES = {-1: "worse", 0: "tie", 1: "better"}


@dataclass(slots=True)
class Questions:
    """Requests of the held-out split, or of one external file.

    Attributes:
        prompts: the requests, in the order of their records.
        scorers: the measures of their answers.
        answers: the answers of each model, in the same order.
        cut: which answers of each model ran to ``max_new_tokens`` without an end.
        measures: the measures of each model.
        left_out: why requests could not be asked, by record.
        decided_by: the metric that decides whether an answer is correct, None without one.
        ids: token ids of the answers of each model.
        rewards: scores of the answers of each model by a reward model, if one judges.
    """

    prompts: list[Prompt]
    scorers: dict[str, Scorer]
    left_out: dict[int, str] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)
    cut: dict[str, list[bool]] = field(default_factory=dict)
    measures: dict[str, dict[str, Additive]] = field(default_factory=dict)
    decided_by: str | None = None
    ids: dict[str, list[list[int]]] = field(default_factory=dict)
    rewards: dict[str, list[float]] = field(default_factory=dict)

    def reward(self, model: str, scores: list[float]) -> dict[str, float]:
        """Record the scores that a reward model gives a model's answers, and return their mean."""
        self.rewards[model] = scores
        self.measures[model][REWARD] = Additive(np.array([[score, 1.0] for score in scores]), _mean)
        return values({REWARD: self.measures[model][REWARD]})

    def add(self, model: str, answers: list[str], cut: list[bool]) -> dict[str, Any]:
        """Record the answers of a model and return its measures; reasoning is not scored.

        Added are ``n_generated``, the number of answers; ``n_cut``, those cut off; ``n_scored``, the number scored by
        measures that do not apply to all; and ``decided_by``, unless that is exact match.
        """
        references = [prompt.reference for prompt in self.prompts]
        self.answers[model], self.cut[model] = answers, cut
        said = [_said(answer, reference) for answer, reference in zip(answers, references, strict=True)]
        found = {name: score_answers(made, said, references) for name, made in self.scorers.items()}
        self.measures[model] = found
        cases = {name: int(np.count_nonzero(found[name].parts[:, 1])) for name in found if name in OF_SOME}
        self.decided_by = next((name for name in BY_REFERENCES if cases.get(name) == len(answers)), None)
        facts: dict[str, Any] = {**values(found), "n_generated": len(answers)}
        facts |= {"n_cut": sum(cut)} if any(cut) else {}
        partial = {name: number for name, number in cases.items() if 0 < number < len(answers)}
        facts |= {"n_scored": partial} if partial else {}
        return facts | ({} if self.decided_by in (None, "exact_match") else {"decided_by": self.decided_by})

    def example_if_none_is_right(self, model: str) -> str | None:
        """Return the model's first answer beside the reference, if none of its answers is right."""
        if not self.decided_by or self.measures[model][self.decided_by].parts[:, 0].any():
            return None
        first = self.prompts[0]
        wrote, wanted = (repr(_beginning(text)) for text in (self.answers[model][0], first.reference))
        return f"{model} answered nothing correctly; its first answer was {wrote}, the reference is {wanted}."

    def differences(self, before: str, after: str) -> dict[str, Interval]:
        """Return the difference of two models in each measure, with intervals."""
        return measure_differences(self.measures[before], self.measures[after])

    def changed(self, before: str, after: str) -> dict[str, int]:
        """Return how many answers of two models differ, of how many; nothing unless both answered."""
        if not {before, after} <= set(self.answers):
            return {}
        pairs = list(zip(self.answers[before], self.answers[after], strict=True))
        return {"changed": sum(one != other for one, other in pairs), "n": len(pairs)}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a line per request: the answers, whether they are right, how tuning did, and all scores.

        ``outcome`` says whether the tuned model's answer is better or worse than the base's by the measure that
        decides, or a tie; ``cut`` names the models whose answer was cut. Requests that could not be asked come last.
        """
        for place, prompt in enumerate(self.prompts):
            given = {name: answers[place] for name, answers in self.answers.items()}
            scores = {name: self._scores(answer, prompt.reference) for name, answer in given.items()}
            for name, found in self.rewards.items():
                scores[name][REWARD] = found[place]
            matches = {f"{name}_match": found[self.decided_by] for name, found in scores.items() if self.decided_by}
            line = {"record": prompt.record, "prompt": prompt.text, "reference": prompt.reference}
            cut = [name for name in given if self.cut[name][place]]
            outcome = _outcome(matches.get("base_match"), matches.get("tuned_match"))
            yield {**line, **given, **matches, **outcome, **({"cut": cut} if cut else {}), "scores": scores}
        yield from ({"record": record, "left_out": reason} for record, reason in sorted(self.left_out.items()))

    def _scores(self, answer: str, reference: str) -> dict[str, float | bool]:
        said = _said(answer, reference)
        found = {name: scorer.score(said, reference) for name, scorer in self.scorers.items()}
        return {name: score for name, score in found.items() if score is not None}


def _mean(sums: np.ndarray) -> float | None:
    return float(sums[0] / sums[1]) if sums[1] else None


def _said(answer: str, reference: str) -> str:
    """Return an answer without its reasoning, as references have none."""
    return answer if after_thoughts(reference) != reference else after_thoughts(answer)


def _outcome(base: float | bool | None, tuned: float | bool | None) -> dict[str, str]:
    if base is None or tuned is None:
        return {}
    return {"outcome": OUTCOME_NAMES[(tuned > base) - (tuned < base)]}


def _beginning(text: str, characters: int = 100) -> str:
    return text if len(text) <= characters else f"{text[:characters]}\u2026"
