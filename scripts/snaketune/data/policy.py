"""How records are read: what the configuration says about it, and what was decided for one source."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
        known = {key: value for key, value in cfg["data"].items() if key in cls.__dataclass_fields__}
        return cls(**known, pairs=cfg.get("train", {}).get("method") == "dpo")

    def of_source(self, options: Mapping[str, Any]) -> "ReadingPolicy":
        """Return the policy for a source with options of its own."""
        own = {key: options[key] for key in ("format", "columns") if key in options}
        return replace(self, **own) if own else self


@dataclass(frozen=True, slots=True)
class Limits:
    """How many records of all sources together are kept, None for all, and the seed of every sample."""

    max_records: int | None = None
    seed: int = 0

    @classmethod
    def of_slice(cls, cfg: dict[str, Any]) -> "Limits":
        """Return the limits in a stage's configuration slice."""
        data = cfg["data"]
        return cls(data.get("max_records"), data.get("seed", 0))


@dataclass(frozen=True, slots=True)
class Reading:
    """What the records of one source are read as; decided once, from its first records.

    Attributes:
        format: the name of the shape.
    """

    format: str
