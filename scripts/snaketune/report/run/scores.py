"""The scores of a reward model: how they are distributed, and pairs that it ranks wrong and right."""

import itertools
from dataclasses import dataclass

from snaketune.report import units
from snaketune.report.charts import axes
from snaketune.report.charts.charts import Chart
from snaketune.report.charts.svg import Axis, Plot, Series
from snaketune.report.report_facts import RunPageFacts
from snaketune.report.text import Excerpt, excerpt

HEIGHT, CHARACTERS = 150, 400


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A held-out pair with the scores of its answers."""

    title: str
    record: str
    prompt: Excerpt
    chosen: Excerpt
    chosen_score: str
    rejected: Excerpt
    rejected_score: str


def score_chart(facts: RunPageFacts) -> Chart | None:
    """Return the distribution of the scores of chosen and of rejected answers, None without a reward model."""
    found = facts.evaluation["scores"]
    edges = found["edges"]
    if len(edges) < 2:
        return None
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    sides = (("chosen", found["chosen"], 1), ("rejected", found["rejected"], 2))
    series = tuple(
        Series([*zip(middles, map(float, counts), strict=True)], name, colour) for name, counts, colour in sides
    )
    bins = zip(itertools.pairwise(edges), found["chosen"], found["rejected"], strict=True)
    rows = tuple(
        (units.significant(low), units.significant(high), units.count(good), units.count(bad))
        for (low, high), good, bad in bins
    )
    return Chart(
        "scores",
        "Scores of held-out answers",
        "How many chosen and how many rejected answers of the held-out pairs got a score; the less they overlap, the"
        f" better.{_margins(facts)}",
        Plot(Axis("score"), Axis("answers", axes.tick_text, whole=True, low=0), HEIGHT, series),
        ("From", "To", "Chosen", "Rejected"),
        rows,
    )


def _margins(facts: RunPageFacts) -> str:
    """Return a sentence about the margins that the pairs were trained with, empty if they have none."""
    split, weight = facts.pack["splits"]["train"], facts.run["config"].get("train.reward.margin_weight")
    if "mean_margin" not in split or weight is None:
        return ""
    scored, mean = units.count(split["scored_pairs"], "training pair"), units.significant(split["mean_margin"])
    return f" Margins above 0: {scored}; mean of all pairs: {mean}, times train.reward.margin_weight {weight['value']}."


def scored_pairs(facts: RunPageFacts) -> tuple[ScoredPair, ...]:
    """Return the pairs that are ranked wrong by most, then those ranked right by most."""
    return tuple(
        ScoredPair(
            "Ranked right" if pair["chosen_score"] > pair["rejected_score"] else "Ranked wrong",
            f"line {units.count(pair['record'] + 1)} of eval.jsonl",
            excerpt(pair["prompt"], CHARACTERS),
            excerpt(pair["chosen"], CHARACTERS),
            units.significant(pair["chosen_score"]),
            excerpt(pair["rejected"], CHARACTERS),
            units.significant(pair["rejected_score"]),
        )
        for pair in facts.evaluation["scored_pairs"]
    )
