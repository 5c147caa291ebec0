"""Findings of the check of the merged model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from snaketune.facts.evaluation_facts import ChangedAnswers
from snaketune.facts.merge_facts import MergeChecked
from snaketune.report import units
from snaketune.report.report_facts import RunPageFacts
from snaketune.report.run.funnel import SPLIT_LABELS
from snaketune.report.text import excerpt

CHECK_ROWS = (
    ("tensors_merged", "Tensors merged", units.count),
    ("adapter_tensors", "Tensors of the adapter", units.count),
    ("relative_error_fp32", "Largest relative error of the sums before rounding", units.significant),
    ("logits_error", "Error of the sums in the log-probabilities, relative to the change by tuning", units.significant),
    (
        "file_logits_error",
        "Error of the files in the log-probabilities, relative to the change by tuning",
        units.significant,
    ),
    ("change_kept", "Fraction of the change kept in the stored weights", units.percent),
    ("score_change", "Mean change of a score due to the dtype", units.significant),
    ("scores_compared", "Answers whose scores were compared", units.count),
    ("pairs_reordered", "Pairs that the merged model ranks the other way round", units.count),
    ("mean_kl", "Mean KL divergence of the next token, adapter and merged (nats)", units.significant),
    ("adapter_loss", "Loss with the adapter (nats per trained token)", units.plain),
    ("merged_loss", "Loss of the merged model (nats per trained token)", units.plain),
    ("loss_change", "Change of the loss due to the dtype (nats per trained token)", units.significant),
    ("relative_loss_change", "Relative change of the loss", units.significant),
)
INTERVALS = {"mean_kl": "mean_kl_interval", "loss_change": "loss_change_interval"}
ROUNDINGS = {"stochastic": "rounded stochastically", "nearest": "rounded to nearest"}


@dataclass(frozen=True, slots=True)
class ShownMergeCheck:
    """The check of a merged model; ``verdict`` is empty when it was not compared with the adapter.

    ``extent`` says on how much data it was compared, ``rounding`` how the weights came to their format, ``refusal`` why
    there is no merged model, and ``choice`` what else can be done where its dtype is worth a look.
    """

    verdict: str
    rows: tuple[tuple[str, str], ...]
    extent: str
    dtype: str
    rounding: str = ""
    refusal: str = ""
    choice: str = ""


def merge_check(facts: RunPageFacts) -> ShownMergeCheck | None:
    """Return the check as text, or None where there is no merged model."""
    if facts.merged is None:
        return None
    check = facts.merged["check"]
    known = [row for row in CHECK_ROWS if cast(Mapping[str, Any], check)[row[0]] is not None]
    rows = [(_named(label, facts), _written(check, key, write)) for key, label, write in known]
    if moved := moved_share(check):
        rows.append(("Values in the trained weights that changed", moved))
    if (answers := facts.evaluation["changed_answers"]) and answers["n"]:
        rows.append(("Generated answers that differ in the merged model", changed_answers(answers)))
    return ShownMergeCheck(
        verdict=excerpt(check["verdict"], 200).text,
        rows=tuple(rows),
        extent=extent(check),
        dtype=excerpt(facts.merged["dtype"], 50).text,
        rounding=ROUNDINGS.get(str(facts.merged["rounding"]), ""),
        refusal=missing_because(facts),
        choice=choice(facts) if check["verdict"] == "rounded" else "",
    )


def choice(facts: RunPageFacts) -> str:
    """Return the alternatives if the dtype of a merged model costs too much."""
    is_nearest = facts.merged is not None and facts.merged["rounding"] == "nearest"
    drawn = "set merge.rounding to stochastic, or, " if is_nearest else ""
    return f"{drawn}to lose nothing, set merge.dtype to float32 or serve the adapter with its base model"


def changed_answers(answers: ChangedAnswers) -> str:
    """Return how many answers of the merged model differ from the adapter's."""
    return f"{units.count(answers['changed'])} of {units.count(answers['n'])}"


def missing_because(facts: RunPageFacts) -> str:
    """Return why a run that merges has no merged model; empty where it has one."""
    refused = facts.merged["refused"] if facts.merged else None
    return excerpt(refused["reason"], 2000).text if refused else ""


def _written(check: MergeChecked, key: str, write: Callable[[Any], str]) -> str:
    values = cast(Mapping[str, Any], check)
    text, interval = write(values[key]), values.get(INTERVALS.get(key, ""))
    return f"{text} ({write(interval[0])} to {write(interval[1])})" if interval else text


def moved_share(check: MergeChecked) -> str:
    """Return how many stored values differ from the base model, empty where the check does not say."""
    moved, weights = check["moved"], check["weights"]
    return f"{units.share(moved, weights)} of {units.count(weights)}" if moved is not None and weights else ""


def trained_thing(facts: RunPageFacts) -> str:
    """Return what training made: an adapter or, where every weight was trained, a whole model."""
    return "trained model" if facts.adapter["trained"] == "every weight" else "adapter"


def _named(label: str, facts: RunPageFacts) -> str:
    return label.replace("adapter", trained_thing(facts))


def extent(check: MergeChecked) -> str:
    """Return on how much of which split the models were compared, empty if the check does not say."""
    tokens, rows = check["tokens"], check["rows"]
    if tokens is None or rows is None:
        return ""
    split = next((word for name, word in SPLIT_LABELS if name == check["split"]), "")
    place = f" of the {split.lower()} split" if split else ""
    return f"Compared on {units.count(tokens, 'trained token')} in {units.count(rows, 'packed row')}{place}."
