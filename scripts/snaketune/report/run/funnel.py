"""From the lines of the sources to the documents that were trained: every line is somewhere."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from snaketune.report import units
from snaketune.report.facts import Facts, get_path

SPLITS = (("train", "Training"), ("eval", "Held-out"))
REASONS = {
    "not_json": "not JSON",
    "not_packed": "text that is not a list of messages, where others are one",
    "nan_literal": "NaN or Infinity, which JSON does not have",
    "invalid_utf8": "not UTF-8",
    "lone_surrogate": "half of a surrogate pair",
    "too_deep": "nested too deeply",
    "line_too_long": "a line over 16 MiB",
    "not_an_object": "not a JSON object",
    "duplicate_key": "a key written twice",
    "missing_field": "a field is missing",
    "null_content": "a field is null",
    "wrong_type": "a field of the wrong type",
    "inexact_number": "a number with more digits than are kept",
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
    "bad_tool_call": "a tool call that is none",
    "bad_tools": "tools that are not a list of objects",
    "tool_without_call": "a tool's result without a call",
    "two_systems": "two different system prompts",
    "two_tools": "two different lists of tools",
    "two_columns": "two columns that differ for one field",
    "two_reasonings": "two different texts of reasoning",
    "not_rendered": "no conversation in the markup of the others",
    "no_question": "a context without a question",
    "several_answers": "several answers where others have one",
    "not_two_answers": "not two ranked answers",
    "no_score": "answers without a score",
    "other_modality": "needs images, video or sound",
    "judged_wrong": "not for training, as its owner says",
    "no_preference": "chosen and rejected are the same",
    "prompts_differ": "chosen and rejected have different prompts",
    "no_trained_token": "no token to train",
    "control_token_in_content": "a control token in the text",
    "refused_by_template": "refused by the chat template",
    "left_out_by_template": "a part that the chat template does not write",
    "reasoning_left_out": "reasoning that the chat template does not write",
    "answer_joins_prompt": "an answer that joins its prompt in a token",
}


# What the split keeps out of training, because it would give held-out answers away.
LEAKS = {
    "dropped_similar": "too similar to a held-out record",
    "dropped_contaminated": "found in evaluation text",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A row of the funnel: what is there (``kind`` stage), or what left (``kind`` loss)."""

    kind: str
    label: str
    number: str
    share: str
    width: str


def funnel(facts: Facts) -> tuple[Step, ...]:
    """Return the rows of the funnel; unknown numbers and losses of nothing are left out."""
    lines = line_count(facts)
    rows: list[tuple[str, str, int | None]] = [("stage", "Lines in the sources", lines)]
    rows += _losses("quarantined", get_path(facts.reading, "reasons"))
    rows += [("loss", "not in the sample of max_records", get_path(facts.reading, "not_sampled"))]
    rows += [("stage", "Records read", get_path(facts.reading, "records"))]
    rows += _duplicates(facts)
    rows += [("stage", "Records kept", get_path(facts.dedupe, "kept"))]
    rows += [("loss", words, get_path(facts.split, key)) for key, words in LEAKS.items()]
    rows += [("loss", "left out by the weight of their source", get_path(facts.split, "weight_left_out"))]
    rows += [("stage", "Copies added by the weight of their source", get_path(facts.split, "weight_added"))]
    for split, name in SPLITS:
        rows += [("stage", f"{name} records{_alike(facts, split)}", get_path(facts.split, split))]
        rows += _losses("left out", get_path(facts.tokens, f"splits.{split}.dropped"))
        rows += [("loss", "dropped: longer than max_length", too_long(facts, split))]
        rows += [("stage", f"{name} documents in packed rows", get_path(facts.pack, f"splits.{split}.documents"))]
    shown = [row for row in rows if row[2] is not None and (row[0] == "stage" or row[2])]
    return tuple(_step(kind, label, number or 0, lines) for kind, label, number in shown)


def _alike(facts: Facts, split: str) -> str:
    """Return how many held-out records have more training records like them than a leak explains, for a label."""
    count = get_path(facts.split, "eval_alike") if split == "eval" else None
    return f" ({units.plain(count)} of them like many training records each)" if count else ""


def line_count(facts: Facts) -> int | None:
    """Return the number of lines in all sources, or None where a source does not say."""
    counts = [source.get("lines") for source in get_path(facts.reading, "sources") or []]
    return None if not counts or None in counts else sum(counts)


def reason_words(reason: str) -> str:
    """Return a reason of the facts in plain words."""
    return REASONS.get(reason, reason.replace("_", " "))


def too_long(facts: Facts, split: str) -> int | None:
    """Return how many documents of a split were dropped because they are longer than max_length."""
    return get_path(facts.rightsize, "dropped" if split == "train" else f"{split}.dropped")


def _duplicates(facts: Facts) -> list[tuple[str, str, int | None]]:
    exact, near = (get_path(facts.dedupe, f"removed_{kind}") for kind in ("exact", "near"))
    if exact is None or near is None:
        return [("loss", "duplicates", get_path(facts.dedupe, "removed"))]
    return [("loss", "exact duplicates", exact), ("loss", "near-duplicates", near)]


def _losses(verb: str, reasons: Mapping[str, int] | None) -> list[tuple[str, str, int | None]]:
    ordered = sorted((reasons or {}).items(), key=lambda item: (-item[1], item[0]))
    return [("loss", f"{verb}: {reason_words(reason)}", number) for reason, number in ordered]


def _step(kind: str, label: str, number: int, lines: int | None) -> Step:
    width = f"{min(100.0, 100 * number / lines):.2f}" if lines else "0"
    sign = units.MINUS if kind == "loss" else ""
    return Step(kind, label, f"{sign}{units.count(number)}", units.share(number, lines), width)


@dataclass(frozen=True, slots=True)
class Balance:
    """A place where counts must add up; ``gap`` is what is missing, None where a count is not known."""

    place: str
    gap: int | None


def balances(facts: Facts) -> tuple[Balance, ...]:
    """Return the balance of every stage, from the lines of the sources to the packed documents."""
    reading, dedupe, split = facts.reading, facts.dedupe, facts.split
    found = [
        _balance("reading", line_count(facts), (get_path(reading, "records"), *_not_read(facts))),
        _balance(
            "deduplication", get_path(reading, "records"), (get_path(dedupe, "kept"), get_path(dedupe, "removed"))
        ),
        _balance(
            "splitting", get_path(dedupe, "kept"), (*(get_path(split, name) for name, _ in SPLITS), *_not_split(facts))
        ),
    ]
    for name, word in SPLITS:
        records = get_path(facts.tokens, f"splits.{name}.records")
        dropped = get_path(facts.tokens, f"splits.{name}.dropped")
        left_out = None if dropped is None else sum(dropped.values())
        packed = get_path(facts.pack, f"splits.{name}.documents")
        found += [_balance(f"tokenizing the {word.lower()} split", get_path(split, name), (records, left_out))]
        found += [_balance(f"packing the {word.lower()} split", records, (packed, too_long(facts, name)))]
    return tuple(found)


def _not_read(facts: Facts) -> list[int | None]:
    return [get_path(facts.reading, "quarantined"), get_path(facts.reading, "not_sampled") or 0]


def _not_split(facts: Facts) -> list[int]:
    """Return what left on the way to the split, and less than nothing for what weights repeat."""
    lost = [get_path(facts.split, key) or 0 for key in (*LEAKS, "weight_left_out")]
    return [*lost, -(get_path(facts.split, "weight_added") or 0)]


def _balance(place: str, whole: Any, parts: Iterable[Any]) -> Balance:
    known = list(parts)
    return Balance(place, None if whole is None or None in known else whole - sum(known))
