"""The funnel from lines of the sources to trained documents, in which every line is accounted for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from snaketune.facts.data_facts import PackedSplit, Split
from snaketune.report import units
from snaketune.report.report_facts import RunPageFacts

SplitName = Literal["train", "eval"]
SPLIT_LABELS: tuple[tuple[SplitName, str], ...] = (("train", "Training"), ("eval", "Held-out"))
REASONS = {
    "not_json": "not JSON",
    "not_packed": "text that is not a list of messages, where others are one",
    "nan_literal": "NaN or Infinity, which is not JSON",
    "invalid_utf8": "not UTF-8",
    "lone_surrogate": "a lone surrogate",
    "too_deep": "nested too deeply",
    "line_too_long": "a line over 16 MiB",
    "not_an_object": "not a JSON object",
    "duplicate_key": "a duplicate key",
    "missing_field": "a field is missing",
    "null_content": "a field is null",
    "wrong_type": "a field of the wrong type",
    "inexact_number": "a number with more digits than can be kept",
    "empty_prompt": "an empty prompt",
    "empty_completion": "an empty answer",
    "empty_text": "an empty text",
    "content_not_text": "content that is not text",
    "bad_role": "an unknown role",
    "bad_weight": "a weight other than 0 or 1",
    "no_assistant": "no answer to learn from",
    "duplicate_system": "more than one system message",
    "system_not_first": "a system message that is not the first",
    "assistant_first": "the assistant speaks first",
    "last_turn_not_assistant": "no answer at the end",
    "bad_tool_call": "an invalid tool call",
    "bad_tools": "tools that are not a list of objects",
    "tool_without_call": "a tool's result without a call",
    "two_systems": "two different system prompts",
    "two_tools": "two different lists of tools",
    "two_columns": "two columns that differ for one field",
    "two_reasonings": "two different texts of reasoning",
    "not_rendered": "a conversation without the markup of the others",
    "no_question": "a context without a question",
    "several_answers": "several answers where others have one",
    "not_two_answers": "not two ranked answers",
    "no_score": "answers without a score",
    "no_label": "a label that is not true or false",
    "no_answer": "a label without an answer",
    "no_margin": "a margin or score that is not a number",
    "negative_margin": "a chosen answer with the lower score",
    "other_modality": "needs images, video or sound",
    "judged_wrong": "marked as not for training",
    "no_preference": "chosen and rejected are the same",
    "prompts_differ": "chosen and rejected have different prompts",
    "no_trained_token": "no token to train",
    "control_token_in_content": "a control token in the text",
    "refused_by_template": "rejected by the chat template",
    "left_out_by_template": "content that the chat template leaves out",
    "reasoning_left_out": "reasoning that the chat template leaves out",
    "answer_joins_prompt": "an answer that shares a token with its prompt",
}


def leaks(split: Split) -> tuple[tuple[str, int | None], ...]:
    """Return what the split keeps out of training because it would give held-out answers away: words and records."""
    return (
        ("too similar to a held-out record", split["dropped_similar"]),
        ("found in evaluation text", split["dropped_contaminated"]),
    )


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """A row of the funnel: what remains (``kind`` stage), or what was removed (``kind`` loss)."""

    kind: str
    label: str
    number: str
    share: str
    width: str


def funnel(facts: RunPageFacts) -> tuple[FunnelStep, ...]:
    """Return the rows of the funnel; unknown numbers and losses of nothing are left out."""
    lines = line_count(facts)
    rows: list[tuple[str, str, int | None]] = [("stage", "Lines in the sources", lines)]
    rows += _losses("quarantined", facts.reading["reasons"])
    rows += [("loss", "not in the sample of max_records", facts.reading["not_sampled"])]
    rows += [("stage", "Records read", facts.reading["records"])]
    rows += _duplicates(facts)
    rows += [("stage", "Records kept", facts.dedupe["kept"])]
    rows += [("loss", words, number) for words, number in leaks(facts.split)]
    rows += [("loss", "left out by the weight of their source", facts.split["weight_left_out"])]
    rows += [("stage", "Copies added by the weight of their source", facts.split["weight_added"])]
    for split, name in SPLIT_LABELS:
        rows += [("stage", f"{name} records{_alike(facts, split)}", facts.split[split])]
        rows += _losses("left out", facts.tokens["splits"][split]["dropped"])
        rows += [("loss", "dropped: longer than max_length", too_long(facts, split))]
        rows += [("stage", f"{name} documents in packed rows", _documents(facts, split))]
    # A stage is shown even when it is empty, since it is part of the account; a loss of nothing says nothing.
    shown = [row for row in rows if row[2] is not None and (row[0] == "stage" or row[2])]
    return tuple(_step(kind, label, number or 0, lines) for kind, label, number in shown)


def _alike(facts: RunPageFacts, split: str) -> str:
    """Return how many held-out records have more similar training records than a leak explains, for a label."""
    count = facts.split["eval_alike"] if split == "eval" else None
    return f" ({units.plain(count)} of them similar to many training records)" if count else ""


def line_count(facts: RunPageFacts) -> int | None:
    """Return the number of lines in all sources, or None where a source does not say."""
    counts = [source["lines"] for source in facts.reading["sources"]]
    known = [count for count in counts if count is not None]
    # One unknown count makes the sum unknown: a sum of the others would look like the number of all lines.
    return sum(known) if counts and len(known) == len(counts) else None


def reason_words(reason: str) -> str:
    """Return a reason of the facts in plain words."""
    return REASONS.get(reason, reason.replace("_", " "))


def too_long(facts: RunPageFacts, split: SplitName) -> int | None:
    """Return how many documents of a split were dropped because they are longer than max_length."""
    return facts.rightsize["dropped"] if split == "train" else facts.rightsize["eval"]["dropped"]


def packed_split(facts: RunPageFacts, split: SplitName) -> PackedSplit | None:
    """Return the packed rows of a split, None where nothing was held out."""
    return facts.pack["splits"].get(split)


def _documents(facts: RunPageFacts, split: SplitName) -> int | None:
    found = packed_split(facts, split)
    return found["documents"] if found else None


def _duplicates(facts: RunPageFacts) -> list[tuple[str, str, int | None]]:
    exact, near = facts.dedupe["removed_exact"], facts.dedupe["removed_near"]
    if exact is None or near is None:
        # Facts without the two kinds have the total only.
        return [("loss", "duplicates", facts.dedupe["removed"])]
    return [("loss", "exact duplicates", exact), ("loss", "near-duplicates", near)]


def _losses(verb: str, reasons: Mapping[str, int] | None) -> list[tuple[str, str, int | None]]:
    ordered = sorted((reasons or {}).items(), key=lambda item: (-item[1], item[0]))
    return [("loss", f"{verb}: {reason_words(reason)}", number) for reason, number in ordered]


def _step(kind: str, label: str, number: int, lines: int | None) -> FunnelStep:
    width = f"{min(100.0, 100 * number / lines):.2f}" if lines else "0"
    sign = units.MINUS if kind == "loss" else ""
    return FunnelStep(kind, label, f"{sign}{units.count(number)}", units.share(number, lines), width)


@dataclass(frozen=True, slots=True)
class Balance:
    """A balance of counts that must add up; ``gap`` is the missing number, None if a count is unknown."""

    place: str
    gap: int | None


def balances(facts: RunPageFacts) -> tuple[Balance, ...]:
    """Return the balance of every stage, from the lines of the sources to the packed documents."""
    reading, dedupe, split = facts.reading, facts.dedupe, facts.split
    found = [
        _balance("reading", line_count(facts), (reading["records"], *_not_read(facts))),
        _balance("deduplication", reading["records"], (dedupe["kept"], dedupe["removed"])),
        _balance("splitting", dedupe["kept"], (split["train"], split["eval"], *_not_split(facts))),
    ]
    for name, word in SPLIT_LABELS:
        records, dropped = facts.tokens["splits"][name]["records"], facts.tokens["splits"][name]["dropped"]
        left_out = None if dropped is None else sum(dropped.values())
        packed = (_documents(facts, name), too_long(facts, name))
        found += [_balance(f"tokenizing the {word.lower()} split", split[name], (records, left_out))]
        found += [_balance(f"packing the {word.lower()} split", records, packed)]
    return tuple(found)


def _not_read(facts: RunPageFacts) -> list[int | None]:
    return [facts.reading["quarantined"], facts.reading["not_sampled"] or 0]


def _not_split(facts: RunPageFacts) -> list[int]:
    """Return the records removed on the way to the split; negative for records that weights repeat."""
    lost = [number or 0 for _, number in leaks(facts.split)]
    return [*lost, facts.split["weight_left_out"] or 0, -(facts.split["weight_added"] or 0)]


def _balance(place: str, whole: int | None, parts: Iterable[int | None]) -> Balance:
    counts = list(parts)
    known = [count for count in counts if count is not None]
    # An unknown count is not a gap; only counts that are known and do not add up are reported.
    return Balance(place, None if whole is None or len(known) < len(counts) else whole - sum(known))
