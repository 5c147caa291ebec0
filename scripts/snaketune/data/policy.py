"""How records are read: what the configuration says about it, and what was decided for one source."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ReadingPolicy:
    """How records are read: the ``data`` section of the configuration, and whether the method learns from pairs."""

    format: str = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    system_prompt: str | None = None
    max_bad_fraction: float = 0.05
    pairs: bool = False

    @classmethod
    def of_slice(cls, cfg: dict[str, Any]) -> "ReadingPolicy":
        """Return the policy in a stage's configuration slice."""
        return cls(**cfg["data"], pairs=cfg.get("train", {}).get("method") == "dpo")


@dataclass(frozen=True, slots=True)
class Reading:
    """What the records of one source are read as; decided once, from its first records.

    Attributes:
        format: the name of the shape.
    """

    format: str
