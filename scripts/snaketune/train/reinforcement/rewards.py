"""Rewards of answers: the measures of evaluation, the length, and user-defined functions."""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.errors import ConfigError, DataError, TrainingError
from snaketune.data.templates.jinja_sandbox import time_limit
from snaketune.evaluate.answers.matching import numeric_match
from snaketune.evaluate.answers.scorers import exact_match, json_equal, json_valid
from snaketune.evaluate.reward_judge import finished

# A measure of an answer and its reference; None where it does not apply to the reference.
Judge = Callable[[str, str], float | bool | None]
JUDGES: dict[str, Judge] = {
    "exact_match": exact_match(["strip"]),
    "numeric_match": numeric_match,
    "json_equal": json_equal,
    "json_valid": json_valid,
}
LENGTH = "length"
Returned = Callable[[Sequence[str], Sequence[str], Sequence[str]], Sequence[float]]


@dataclass(frozen=True, slots=True)
class ScoredBy:
    """The scores of a reward model.

    Attributes:
        judge: scores documents of token ids.
        ids: token ids of each prompt by its text.
        ending: tokens that end a document.
        stops: tokens that end an answer.
    """

    judge: Callable[[list[list[int]]], Any]
    ids: Mapping[str, tuple[int, ...]]
    ending: tuple[int, ...]
    stops: tuple[int, ...]

    def __call__(self, prompts: Sequence[str], completions: Sequence[Any], references: Sequence[str]) -> list[float]:
        """Return the scores of answers, which are token ids here: text that is tokenised again may have others."""
        pairs = zip(prompts, completions, strict=True)
        documents = [finished(self.ids[prompt], answer, self.ending, self.stops) for prompt, answer in pairs]
        return [float(score) for score in self.judge(documents)]


@dataclass(slots=True)
class Reward:
    """A reward as TRL calls it: prompts and completions by name, one number for each completion.

    Attributes:
        name: as the configuration has it.
        score: from prompts, completions and references to numbers.
        seconds: time limit of one call.
        calls: number of calls so far.
    """

    name: str
    score: Returned
    seconds: float = 60.0
    calls: int = 0

    @property
    def is_scored(self) -> bool:
        """Whether it comes from a reward model."""
        return isinstance(self.score, ScoredBy)

    @property
    def __name__(self) -> str:
        """The reward's name in TRL's metrics."""
        return self.name.replace("/", "_").replace(":", "_")

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        reference: Sequence[str],
        completion_ids: Sequence[Sequence[int]] = (),
        **_: Any,
    ) -> list[Any]:
        """Return the rewards of completions.

        Raises:
            TrainingError: if the function fails, takes too long or does not return a finite number for each.
        """
        self.calls += 1
        place = f"train.grpo.rewards: {self.name}, call {self.calls} with {len(completions)} completions"
        try:
            with time_limit(self.seconds, lambda: "too slow"):
                texts: Any = completion_ids if self.is_scored else completions
                found = self.score(prompts, texts, reference)
        except DataError:
            raise TrainingError(
                f"{place}: it took more than {self.seconds:g} s: make it faster, or raise train.grpo.reward_timeout."
            ) from None
        except Exception as error:
            what = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else 'no message'}"
            raise TrainingError(f"{place}: it failed ({what}): correct the function, then run again.") from error
        return _checked(found, len(completions), place)


def _checked(found: Any, wanted: int, place: str) -> list[float]:
    numbers = list(found) if hasattr(found, "__iter__") else [found]
    if len(numbers) != wanted:
        raise TrainingError(f"{place}: it returned {len(numbers)} rewards: return one for each completion.")
    for index, number in enumerate(numbers):
        try:
            value = float(number)
        except (TypeError, ValueError):
            # if not
            value = math.nan
        if not math.isfinite(value):
            raise TrainingError(
                f"{place}: reward {index} is {str(number)[:40]}: return a finite number for each completion."
            )
    return [float(number) for number in numbers]


NO_MODELS: Mapping[str, ScoredBy] = {}


def rewards_of(settings: Mapping[str, Any], models: Mapping[str, ScoredBy] = NO_MODELS) -> list[Reward]:
    """Return the rewards that the section ``train.grpo`` names; ``models`` has the reward models by their names.

    Raises:
        ConfigError: if one is unknown, or its file or function cannot be loaded.
    """
    made: list[Reward] = []
    for name in settings["rewards"]:
        if name in JUDGES:
            made.append(Reward(name, _judged(JUDGES[name]), settings["reward_timeout"]))
        elif name == LENGTH:
            made.append(Reward(name, brevity, settings["reward_timeout"]))
        elif name in models:
            made.append(Reward(name, models[name], settings["reward_timeout"]))
        else:
            made.append(Reward(name, load_function(name), settings["reward_timeout"]))
    return made


def _judged(judge: Judge) -> Returned:
    def score(prompts: Sequence[str], completions: Sequence[str], references: Sequence[str]) -> list[float]:
        # A metric that does not apply (None) gives no reward rather than an error: such prompts are filtered before
        # training.
        return [float(judge(answer, wanted) or 0) for answer, wanted in zip(completions, references, strict=True)]

    return score


def brevity(prompts: Sequence[str], completions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return 1 for an answer no longer than its reference, else the ratio of the reference's length to its own."""
    pairs = zip(completions, references, strict=True)
    return [min(1.0, max(1, len(wanted)) / max(1, len(answer))) for answer, wanted in pairs]


def load_function(place: str) -> Returned:
    """Return the function that ``file.py:function`` names.

    Raises:
        ConfigError: if the file or the function cannot be loaded.
    """
    path, _, name = place.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(path).expanduser())
    if spec is None or spec.loader is None:
        raise ConfigError(f"train.grpo.rewards: {place}: {path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(
            f"train.grpo.rewards: {place}: {path} cannot be loaded ({type(error).__name__}: {str(error)[:200]})."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"train.grpo.rewards: {place}: {path} has no function {name}.")
    return function


def applicable(names: Sequence[str], references: Sequence[str]) -> list[int]:
    """Return the indices of the references that every measure among ``names`` applies to."""
    judges = [JUDGES[name] for name in names if name in JUDGES]
    return [place for place, text in enumerate(references) if all(judge(text, text) is not None for judge in judges)]
