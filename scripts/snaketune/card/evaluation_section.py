"""The evaluation in a card: the measures of each model, and confidence intervals of their differences."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from snaketune.card.card_facts import CardFacts
from snaketune.card.markdown_text import code, markdown_table, number_text, one_line, signed_number
from snaketune.facts.evaluation_facts import MODELS, Compared, Interval

COUNT_NAMES = ("n", "n_generated", "n_cut")
METRIC_NAMES = {
    "loss": "loss (nats per token)",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
    "token_accuracy": "token accuracy",
    "preference_accuracy": "preference accuracy",
    "reward_accuracy": "reward accuracy",
    "reward_margin": "score of the chosen answer less the rejected one's",
    "reward": "mean reward of the answers",
    "exact_match": "exact match",
    "numeric_match": "numeric match",
    "json_valid": "JSON valid",
    "json_equal": "JSON equal",
    "chrf": "chrF",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
}


@dataclass(frozen=True, slots=True)
class DataSet:
    """The measures on one data set.

    Attributes:
        name: name to display.
        type: identifier of the data set for the hub.
        split: name of the split.
        models: measures and counts by model.
        differences: intervals of tuned minus base, by measure.
    """

    name: str
    type: str
    split: str
    models: Mapping[str, Mapping[str, Any]]
    differences: Mapping[str, Interval] = field(default_factory=dict)

    def values(self, kind: str) -> dict[str, float]:
        """Return the measures of the card's model."""
        found = finite_measures(self.models.get("merged" if kind == "merged" else "tuned", {}))
        return {name: found[name] for name in self.metrics if name in found}

    @property
    def metrics(self) -> list[str]:
        """The names of all measures of any model, in the order of :data:`METRIC_NAMES`, then others by name."""
        found = dict.fromkeys(name for model in self.models.values() for name in finite_measures(model))
        return sorted(
            found,
            key=lambda name: (list(METRIC_NAMES).index(name) if name in METRIC_NAMES else len(METRIC_NAMES), name),
        )

    @property
    def cases(self) -> str:
        """The number of cases behind the measures, in words."""
        counts: Mapping[str, Any] = next(iter(self.models.values()), {})
        names = {"n": "documents", "n_generated": "answers"}
        return " and ".join(f"{number_text(counts[key])} {names[key]}" for key in names if key in counts)


def metric_name(name: str) -> str:
    """Return the display name of a measure."""
    return METRIC_NAMES.get(name) or one_line(name)


def finite_measures(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite measures among the facts of a model."""
    numbers = {
        name: value for name, value in facts.items() if isinstance(value, int | float) and name not in COUNT_NAMES
    }
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def data_sets(facts: CardFacts) -> list[DataSet]:
    """Return the held-out split, each external file and each task of the harness."""
    evaluation = facts.evaluation
    sources = facts.run["sources"]
    names = ", ".join(basename(source["path"]) for source in sources[:3]) + (", ..." if len(sources) > 3 else "")
    found = [_data_set(f"held-out split of {names}", "held-out", "eval", evaluation)]
    found += [
        _data_set(basename(name), "local-file", "test", value) for name, value in sorted(evaluation["files"].items())
    ]
    for name, task in sorted(evaluation["tasks"].items()):
        tried: dict[str, Mapping[str, Any]] = {
            model: {**task[model], "n": task["n"]} for model in MODELS if task[model]
        }
        title = f"{one_line(name)} (lm-evaluation-harness, version {one_line(task['version'])})"
        found.append(DataSet(title, "lm-evaluation-harness", "test", tried))
    return [data for data in found if data.metrics]


def _data_set(name: str, type_: str, split: str, facts: Compared) -> DataSet:
    models: dict[str, Mapping[str, Any]] = {model: scores for model in MODELS if (scores := facts[model])}
    return DataSet(name, type_, split, models, facts["differences"].get("tuned_minus_base", {}))


def basename(path: str) -> str:
    """Return the last component of a path: cards are public and must not reveal the user's folders."""
    return one_line(path.rstrip("/").rsplit("/", 1)[-1])


def results_table(data: DataSet) -> list[str]:
    """Return the table of one data set, with a row per measure."""
    models = [name for name in MODELS if name in data.models]
    head = ["measure", *models, "tuned minus base", "95% interval"]
    rows = []
    for metric in data.metrics:
        moved = data.differences.get(metric, Interval())
        values = [_value(data.models[name].get(metric)) for name in models]
        label = METRIC_NAMES.get(metric) or code(metric)
        label = "loss (nats per pair)" if metric == "loss" and "reward_margin" in data.metrics else label
        rows.append([label, *values, _difference(moved), _interval(moved)])
    return markdown_table(head, rows)


def _value(value: float | None) -> str:
    return "" if value is None else number_text(float(value))


def _difference(moved: Interval) -> str:
    difference = moved.get("difference")
    return "" if difference is None else signed_number(difference)


def _interval(moved: Interval) -> str:
    low, high = moved.get("low"), moved.get("high")
    return "" if low is None or high is None else f"{signed_number(low)} to {signed_number(high)}"
