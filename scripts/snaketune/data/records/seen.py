"""What was seen of records and not used, counted by name."""

from dataclasses import dataclass, field
from typing import Any

from snaketune.data.formats.columns import has_text, size_of

# Columns that are counted by name, at most.
KNOWN_COLUMNS = 1000


@dataclass(slots=True)
class Seen:
    """What was seen of records: columns and keys that nothing is made of, and columns that are named and there.

    Attributes:
        unused: for each the number of records that have it, of those with text in it, and the text's characters.
        found: columns of ``data.columns`` and ``data.ignore`` that a record had.
        used: the characters of all texts that records were made of.
    """

    unused: dict[str, list[int]] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)
    used: int = 0

    def share(self, name: str) -> float:
        """Return the characters of something that is not used as a fraction of those of all text, used or not."""
        everything = self.used + sum(size for _, _, size in self.unused.values())
        return self.unused[name][2] / max(1, everything)

    def note(self, name: str, value: Any) -> None:
        """Count a value that is not used, once per record and name."""
        counts = self.unused.get(name)
        if counts is None:
            if len(self.unused) >= KNOWN_COLUMNS:
                return
            counts = self.unused[name] = [0, 0, 0]
        counts[0] += 1
        if value is not None and type(value) not in (int, float, bool) and has_text(value):
            counts[1] += 1
            counts[2] += size_of(value)

    def add(self, other: "Seen") -> None:
        """Add what was seen elsewhere."""
        self.found |= other.found
        self.used += other.used
        for name, counts in other.unused.items():
            if name in self.unused:
                self.unused[name] = [one + more for one, more in zip(self.unused[name], counts, strict=True)]
            elif len(self.unused) < KNOWN_COLUMNS:
                self.unused[name] = list(counts)
