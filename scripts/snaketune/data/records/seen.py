"""Unused fields of records, counted by name."""

from dataclasses import dataclass, field
from typing import Any

from snaketune.data.formats.columns import has_text, text_size

# Maximum number of fields counted by name.
KNOWN_COLUMNS = 1000


@dataclass(slots=True)
class SeenColumns:
    """Counts of unused columns and keys, and the configured columns that were found.

    Attributes:
        unused: for each field, the number of records that have it, of those with text in it, and the text's characters.
        found: columns of ``data.columns`` and ``data.ignore`` that occurred in a record.
        used: the characters of all texts used in records.
    """

    unused: dict[str, list[int]] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)
    used: int = 0

    def share(self, name: str) -> float:
        """Return the characters of an unused field as a fraction of the characters of all text, used or not."""
        everything = self.used + sum(size for _, _, size in self.unused.values())
        return self.unused[name][2] / max(1, everything)

    def note(self, name: str, value: Any) -> None:
        """Count an unused value, once per record and name."""
        counts = self.unused.get(name)
        if counts is None:
            if len(self.unused) >= KNOWN_COLUMNS:
                return
            counts = self.unused[name] = [0, 0, 0]
        counts[0] += 1
        if value is not None and type(value) not in (int, float, bool) and has_text(value):
            counts[1] += 1
            counts[2] += text_size(value)

    def add(self, other: "SeenColumns") -> None:
        """Add the counts of another object."""
        self.found |= other.found
        self.used += other.used
        for name, counts in other.unused.items():
            if name in self.unused:
                self.unused[name] = [one + more for one, more in zip(self.unused[name], counts, strict=True)]
            elif len(self.unused) < KNOWN_COLUMNS:
                self.unused[name] = list(counts)
