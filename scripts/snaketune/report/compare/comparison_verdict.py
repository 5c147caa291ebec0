"""The verdict on several runs in one line, based on paired intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

from snaketune.facts.evaluation_facts import score
from snaketune.report import units
from snaketune.report.compare.comparison import RunFacts, hours, labels, training_seconds
from snaketune.report.compare.ranking import Pairs
from snaketune.report.run.evaluation_table import METRICS
from snaketune.report.run.judging import deciding, preference_sign


@dataclass(frozen=True, slots=True)
class ComparisonVerdict:
    """The top line: ``outcome`` is better (one run leads), mixed, same, or unknown (nothing shared to compare)."""

    outcome: str
    headline: str
    sentence: str


def comparison_verdict(runs: Sequence[RunFacts], pairs: Pairs) -> ComparisonVerdict:
    """Return which run is better over the held-out records that all of them were evaluated on.

    Correct answers and held-out loss decide; for preference runs only answers do, because the facts hold no paired
    accuracies. A run leads if it is clearly better than every other in one of them and behind in none.
    """
    names = labels(runs)
    keys = [key for key in deciding_measures(runs) if _is_paired(runs, pairs, key)]
    sentence = " ".join(filter(None, (*(_moved(key, runs, names, pairs) for key in keys), _times(runs, names))))
    if not keys:
        return ComparisonVerdict("unknown", "These runs were not evaluated on the same held-out records", sentence)
    ahead = {key: _leaders(key, runs, pairs) for key in keys}
    clear = {key: found for key, found in ahead.items() if found}
    if not clear:
        return ComparisonVerdict("same", f"No clear difference between {_listed(names)}", sentence)
    common = set.intersection(*map(set, clear.values()))
    if not common:
        parts = (f"{_names(found, names)} in {_label(key)}" for key, found in clear.items())
        return ComparisonVerdict("mixed", f"No run is best in everything: {' and '.join(parts)}", sentence)
    word = "better" if len(runs) == 2 else "best"
    measures = " and ".join(_label(key) for key in clear)
    verb = "is" if len(common) == 1 else "are"
    return ComparisonVerdict("better", f"{_names(sorted(common), names)} {verb} {word} in {measures}", sentence)


def deciding_measures(runs: Sequence[RunFacts]) -> list[str]:
    """Return what the runs are judged by: right answers if all have them, and the loss if none learned pairs."""
    keys = {deciding(run.evaluation["tuned"]) for run in runs}
    answers = [key for key in keys if key and len(keys) == 1]
    learned_pairs = any(preference_sign(run.evaluation) is not None for run in runs)
    return answers if learned_pairs else [*answers, "loss"]


def _is_paired(runs: Sequence[RunFacts], pairs: Pairs, key: str) -> bool:
    return all(pairs.between(0, place).sign(key) is not None for place in range(1, len(runs)))


def _leaders(key: str, runs: Sequence[RunFacts], pairs: Pairs) -> list[int]:
    values = [score(run.evaluation["tuned"], key) for run in runs]
    found = pairs.leading(key, values, METRICS[key].higher_is_better)
    return [place for place, leads in enumerate(found) if leads]


def _moved(key: str, runs: Sequence[RunFacts], names: Sequence[str], pairs: Pairs) -> str:
    """Return values and, of two runs, the interval of their difference over what both were evaluated on."""
    metric = METRICS[key]
    figures = (metric.write(score(run.evaluation["tuned"], key)) for run in runs)
    values = ", ".join(f"{name} {figure}" for name, figure in zip(names, figures, strict=True))
    if len(runs) > 2:
        return f"{metric.label}: {values}."
    shared = pairs.between(0, 1)
    found, write = shared.moved[key], metric.write_difference
    cases = units.count(shared.documents, "shared document") if key == "loss" else f"{shared.answers} shared requests"
    interval = f"95%: {write(found['low'])} to {write(found['high'])}, {cases}"
    chance = "" if shared.sign(key) else "; that may be chance"
    return f"{metric.label}: {values} ({interval}{chance})."


def _times(runs: Sequence[RunFacts], names: Sequence[str]) -> str:
    times = [training_seconds(run) for run in runs]
    if None in times:
        return ""
    return "Training took " + ", ".join(f"{name} {hours(one)}" for name, one in zip(names, times, strict=True)) + "."


def _label(key: str) -> str:
    return {"loss": "held-out loss"}.get(key, METRICS[key].label.lower())


def _names(places: Sequence[int], names: Sequence[str]) -> str:
    return _listed([names[place] for place in places])


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
