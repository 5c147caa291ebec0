"""What the check of the merged model found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snaketune.report import units
from snaketune.report.facts import Facts, look
from snaketune.report.funnel import SPLITS
from snaketune.report.text import excerpt

ROWS = (
    ("tensors_merged", "Tensors merged", units.count),
    ("adapter_tensors", "Tensors of the adapter", units.count),
    ("relative_error_fp32", "Relative error of the merge in float32", units.significant),
    ("mean_kl", "Mean KL divergence of the next token, adapter and merged (nats)", units.significant),
    ("adapter_loss", "Loss with the adapter (nats per trained token)", units.plain),
    ("merged_loss", "Loss of the merged model (nats per trained token)", units.plain),
    ("relative_loss_change", "Relative change of the loss", units.significant),
)


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """The check of a merged model; ``verdict`` is empty when it was not compared with the adapter.

    ``extent`` says on how much data it was compared.
    """

    verdict: str
    rows: tuple[tuple[str, str], ...]
    extent: str
    dtype: str


def merge_check(facts: Facts) -> MergeCheck | None:
    """Return the check as text, or None where there is no merged model."""
    if facts.merged is None:
        return None
    check = look(facts.merged, "check") or {}
    rows = tuple((_named(label, facts), write(check[key])) for key, label, write in ROWS if key in check)
    verdict, dtype = excerpt(check.get("verdict"), 200).text, excerpt(look(facts.merged, "dtype"), 50).text
    return MergeCheck(verdict, rows, extent(check), dtype)


def trained_thing(facts: Facts) -> str:
    """Return what training made: an adapter or, where every weight was trained, a whole model."""
    return "trained model" if look(facts.adapter, "trained") == "every weight" else "adapter"


def _named(label: str, facts: Facts) -> str:
    return label.replace("adapter", trained_thing(facts))


def extent(check: Mapping[str, Any]) -> str:
    """Return on how much of which split the models were compared, empty where the check does not say."""
    tokens, rows = check.get("tokens"), check.get("rows")
    if tokens is None or rows is None:
        return ""
    split = dict(SPLITS).get(str(check.get("split")), "")
    place = f" of the {split.lower()} split" if split else ""
    return f"Compared on {units.count(tokens, 'trained token')} in {units.count(rows, 'packed row')}{place}."
