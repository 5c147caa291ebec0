"""Sentences about data that is not trained on: each stage that drops records says how many, why, and by which key."""

from collections.abc import Mapping
from typing import cast

from snaketune.core.errors import DataError
from snaketune.data.rows.rightsizing import LengthPolicy
from snaketune.facts.data_facts import Lengths
from snaketune.facts.token_facts import TokenizedSplits

Counts = Mapping[str, int]


def percentage(part: int, whole: int) -> str:
    """Return a percentage for display, with enough digits not to read as 0% or 100% unless it is."""
    percent = 100 * part / whole if whole else 0
    # As few digits as possible: 0% and 100% are reserved for none and all.
    for digits in (0, 1, 2):
        text = f"{percent:.{digits}f}"
        if float(text) not in (0, 100) or percent in (0, 100):
            return f"{text}%"
    return "less than 0.01%" if percent < 1 else "more than 99.99%"


def removed_duplicates(facts: Counts) -> list[str]:
    """Return a line about removed duplicates, if there are any."""
    removed, records = facts["removed"], facts["records_in"]
    if not removed:
        return []
    kinds = [(facts["removed_exact"], "equal to", "exact"), (facts["removed_near"], "nearly equal to", "near")]
    told = " and ".join(f"{count:,} {word} an earlier one (dedupe.{key})" for count, word, key in kinds if count)
    return [
        f"Removed {removed:,} of {records:,} records ({percentage(removed, records)}): {told}; "
        f"duplicates.jsonl lists them."
    ]


def left_out_at_tokenising(splits: TokenizedSplits) -> list[str]:
    """Return a line about records left out during tokenisation, if there are any."""
    dropped = _left_out(splits)
    records = (splits["train"]["records"] or 0) + (splits["eval"]["records"] or 0)
    total = sum(dropped.values())
    if not total:
        return []
    return [
        f"Left out {total:,} of {total + records:,} records ({percentage(total, total + records)}) during tokenisation:"
        f" {reasons_text(dropped)}; dropped.jsonl lists each with its reason."
    ]


def _left_out(splits: TokenizedSplits) -> dict[str, int]:
    found: dict[str, int] = {}
    for split in (splits["train"], splits["eval"]):
        for reason, count in split["dropped"].items():
            found[reason] = found.get(reason, 0) + count
    return dict(sorted(found.items()))


def reasons_text(dropped: Counts) -> str:
    """Return counts by reason as text: ``3 no trained token, 1 refused by template``."""
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in sorted(dropped.items()))


def lengths_told(facts: Lengths, pairs: bool = False) -> list[str]:
    """Return lines about documents longer than a row, from ``rightsize.json``; none if all fit.

    Args:
        facts: the facts of ``rightsize.json``.
        pairs: whether the records are pairs of answers, which cannot be truncated.
    """
    both = _both(facts)
    limit = f"max_length of {facts['max_length'] or 0:,} tokens ({_decided(facts)})"
    lines = []
    if count := both["in_pieces"]:
        lines.append(
            f"Cut {count:,} {'text that is' if count == 1 else 'texts that are'} longer than the {limit} into"
            f" {both['pieces']:,} pieces; every token is trained once."
        )
    if count := both["truncated"]:
        lines.append(
            f"Truncated {count:,} of {both['records']:,} records ({percentage(count, both['records'])}) "
            f"that are longer than"
            f" the {limit}: {both['tokens_truncated']:,} tokens "
            f"({percentage(both['tokens_truncated'], both['tokens'])}) "
            "are cut off at the end (tokens.on_too_long)."
        )
    if count := both["dropped"]:
        lines.append(
            f"Dropped {count:,} of {both['records']:,} records ({percentage(count, both['records'])} of the records,"
            f" {percentage(both['tokens_dropped'], both['tokens'])} of the tokens) "
            f"that are longer than the {limit}, the"
            f" longest of {max(facts['longest'] or 0, facts['eval']['longest'] or 0):,}: {_cure(facts, pairs)}."
        )
    return lines


def _both(facts: Lengths) -> dict[str, int]:
    """Return the counts of training and held-out documents together."""
    own, held_out = (cast(Mapping[str, int | None], account) for account in (facts, facts["eval"]))
    return {name: (own[name] or 0) + (count or 0) for name, count in held_out.items() if name != "longest"}


def _decided(facts: Lengths) -> str:
    return {
        "context": "the model's context",
        "configuration": "tokens.max_length",
        "data": "taken from the training data",
    }[str(facts["max_length_from"])]


def _cure(facts: Lengths, pairs: bool) -> str:
    is_cut = pairs or facts["on_too_long"] == "truncate"
    truncate = "" if is_cut else ", or set tokens.on_too_long to truncate to cut them"
    larger = {
        "context": "choose a model with a longer context (model.name_or_path)",
        "configuration": "raise tokens.max_length",
        "data": "raise tokens.coverage or set tokens.max_length",
    }[str(facts["max_length_from"])]
    return f"{larger}{truncate}, or give shorter records"


def check_losses(facts: Lengths, splits: TokenizedSplits, policy: LengthPolicy, pairs: bool = False) -> None:
    """Refuse data of which too much would not be trained on, because of its length or left out during tokenisation.

    The limit applies to records and to tokens; a loss that ``tokens.coverage`` permits is allowed.

    Args:
        facts: the facts of ``rightsize.json``.
        splits: the counts of both splits in the manifest of tokenisation.
        policy: the limit.
        pairs: whether the records are pairs of answers.

    Raises:
        DataError: if more than ``tokens.max_dropped_fraction`` is lost.
    """
    both, left_out = _both(facts), left_out_at_tokenising(splits)
    missing = sum(_left_out(splits).values())
    records = (both["dropped"] + missing) / max(1, both["records"] + missing)
    tokens = both["tokens_dropped"] / max(1, both["tokens"])
    allowed = policy.max_dropped_fraction
    # A length derived from the data gives up what ``coverage`` allows on purpose; that must not stop the run.
    if policy.max_length == "auto":
        allowed = max(allowed, 1 - policy.coverage)
    # The tolerance absorbs the rounding of 1 - coverage.
    if max(records, tokens) <= allowed + 1e-9:
        return
    told = " ".join([*left_out, *(line for line in lengths_told(facts, pairs) if line.startswith("Dropped"))])
    raise DataError(
        f"tokens.max_dropped_fraction: more than {allowed:g} of the data would not be trained on. {told} To continue "
        f"without them, set tokens.max_dropped_fraction to {min(1.0, (int(max(records, tokens) * 100) + 1) / 100):g}."
    )
