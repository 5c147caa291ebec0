"""What became of the records of one split while tokenising."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from snaketune.data.sources.source_names import place_of
from snaketune.data.tokens.chunk_tokenizing import ChunkResult
from snaketune.data.tokens.mask_audit import Audit


@dataclass(slots=True)
class SplitAccount:
    """What became of the records of one split."""

    records: int = 0
    tokens: int = 0
    trainable_tokens: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first_refusal: str = ""
    first_place: dict[str, Any] = field(default_factory=dict)
    audit: Audit = field(default_factory=Audit)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, result: ChunkResult) -> None:
        """Count the records of a chunk."""
        # Of a record that became several examples the first one counts.
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
        """Return where the first record was left out and why, ``file`` being the split's."""
        if not self.first_place:
            return "it is empty"
        number = self.first_place["record"] + 1
        return f"{place_of(self.first_place, sources, f'{file} line {number}')}: {self.first_refusal}"

    def facts(self) -> dict[str, Any]:
        """Return the account as facts for the manifest."""
        return {
            "records": self.records,
            "tokens": self.tokens,
            "trainable_tokens": self.trainable_tokens,
            "dropped": dict(sorted(self.dropped.items())),
            "audit": self.audit.facts(),
            **dict(sorted(self.counts.items())),
        }
