"""Counts of tokenisation per split, for the manifest, and sentences about them, for the terminal."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from snaketune.data.sources.source_names import place_of
from snaketune.data.templates.examples import ENDED, LATER, UNMARKED
from snaketune.data.tokens.chunk_tokenizing import ChunkResult
from snaketune.data.tokens.left_out_records import reasons_text
from snaketune.data.tokens.mask_audit import Audit
from snaketune.facts.token_facts import TokenizedSplit, Tokenizing


@dataclass(slots=True)
class SplitAccount:
    """Counts over the records of one split."""

    records: int = 0
    tokens: int = 0
    trainable_tokens: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first_refusal: str = ""
    first_place: dict[str, Any] = field(default_factory=dict)
    audit: Audit = field(default_factory=Audit)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, result: ChunkResult) -> None:
        """Add the counts of a chunk."""
        # A record that became several examples counts once.
        self.records += result.rows - result.counts["examples_of_these"] + result.counts["records_in_several_examples"]
        self.tokens += result.tokens
        self.trainable_tokens += result.trainable_tokens
        self.dropped.update(entry["reason"] for entry in result.dropped)
        if result.dropped and not self.first_refusal:
            self.first_place = result.dropped[0]
            self.first_refusal = self.first_place["detail"]
        self.audit.add(result.audit)
        self.counts.update(result.counts)

    def first(self, sources: Sequence[str], file: str) -> str:
        """Return the place of the first record left out and the reason; ``file`` is the split's."""
        if not self.first_place:
            return "it is empty"
        number = self.first_place["record"] + 1
        return f"{place_of(self.first_place, sources, f'{file} line {number}')}: {self.first_refusal}"

    @property
    def reasons(self) -> str:
        """How many records were left out, by reason."""
        return reasons_text(self.dropped)

    def facts(self) -> dict[str, Any]:
        """Return the counts as facts for the manifest."""
        return {
            "records": self.records,
            "tokens": self.tokens,
            "trainable_tokens": self.trainable_tokens,
            "dropped": dict(sorted(self.dropped.items())),
            "audit": self.audit.facts(),
            **dict(sorted(self.counts.items())),
        }


def warnings_of(facts: Tokenizing) -> list[str]:
    """Return sentences about facts of tokenisation that are allowed but rarely intended."""
    found = []
    gate = facts.get("transformers_gate", {})
    if reason := gate.get("reason"):
        found.append(f"Examples were not compared with transformers' inference prompts: {reason}.")
    if gate.get("marked_otherwise"):
        found.append(
            "The chat template's generation blocks differ from the trained tokens in"
            f" {gate['marked_otherwise']:,} of {gate['conversations']:,} conversations compared. They mark"
            f" {gate['marked_beyond']:,} tokens before or after the answers, which are not trained, and omit"
            f" {gate['unmarked_trained']:,} tokens of answers, which are trained."
        )
    if facts["engine_gate"]["reason"]:
        found.append(f"Tokenising with {facts['engine']}: {facts['engine_gate']['reason']}.")
    found += _account_of(cast(Mapping[str, TokenizedSplit], facts["splits"]))
    if not facts["end_tokens"]:
        found.append(
            "Warning: the tokenizer has no eos_token, so the model never learns to stop: set one in its "
            "tokenizer_config.json."
        )
    return found


def _account_of(splits: Mapping[str, TokenizedSplit]) -> list[str]:
    """Return sentences about records that became several examples, and answers that lost their reasoning."""
    found = []
    for split, account in splits.items():
        facts = cast(Mapping[str, int], account)  # its counts have names of their own
        if several := facts.get("records_in_several_examples"):
            found.append(
                f"{several:,} {split} records became {facts['examples_of_these']:,} examples: the chat template"
                " rewrites earlier turns, or an answer starts with white space that would merge with its prompt."
            )
        if ended := facts.get(ENDED):
            found.append(
                f"The chat template writes no token after {ended:,} {split} answers at which generation stops: the "
                "tokenizer's eos_token was added, and each of these answers became a separate example."
            )
        if unmarked := facts.get(UNMARKED):
            found.append(
                f"Warning: {unmarked:,} {split} answers are not trained: the chat template's generation blocks leave"
                " them out. To train them, use a copy of the template without the blocks (tokens.chat_template)."
            )
        if later := facts.get(LATER):
            found.append(
                f"{later:,} {split} answers are trained only from the start of the chat template's generation blocks, "
                "which leave out their first words."
            )
        if lost := facts.get("answers_without_their_reasoning"):
            found.append(
                f"Warning: the chat template leaves out the reasoning of {lost:,} {split} answers, which is not"
                " trained: choose a template that writes it (tokens.chat_template), or set tokens.reasoning to drop."
            )
    return found
