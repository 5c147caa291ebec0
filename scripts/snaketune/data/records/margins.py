"""Margins of pairs: by how much the chosen answer is better, as a number in the record or the difference of two scores.

A reward model then has to keep the scores of a pair that far apart (Touvron et al. 2023, arXiv:2307.09288, equation 2).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snaketune.data.records.field_paths import ABSENT, value_at, values_at
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.records.reading_policy import SourceReading

# Fields of `data.columns`, for train.method: reward.
MARGIN, CHOSEN_SCORE, REJECTED_SCORE = "margin", "chosen_score", "rejected_score"
MARGIN_FIELDS = (MARGIN, CHOSEN_SCORE, REJECTED_SCORE)
INSIDE_LIST = "[]."


@dataclass(frozen=True, slots=True)
class MarginReader:
    """Reads the margin of a record.

    Attributes:
        margin: path of the margin; with ``[].``, of the scores of ranked answers, whose range is the margin.
        chosen, rejected: paths of two scores whose difference is the margin, where there is no such path.
    """

    margin: str | None
    chosen: str = ""
    rejected: str = ""

    @classmethod
    def of(cls, reading: SourceReading) -> "MarginReader | None":
        """Return the reader of a source, None if its pairs have no margins."""
        margin, chosen, rejected = map(reading.field, MARGIN_FIELDS)
        if margin is None and chosen is None:
            return None
        return cls(margin, chosen or "", rejected or "")

    def __call__(self, record: Mapping[str, Any]) -> float:
        """Return the margin of a raw record, 0 or more.

        Raises:
            RefusedLine: if it, or one of two scores, is missing or not a finite number (``no_margin``), or the rejected
                answer is the better one (``negative_margin``).
        """
        fields = dict(record)
        if self.margin is None:
            chosen, rejected = (_number(value_at(fields, path), path) for path in (self.chosen, self.rejected))
            if chosen < rejected:
                raise RefusedLine(
                    "negative_margin",
                    f"{self.chosen!r} is {chosen:g} and {self.rejected!r} is {rejected:g}: the chosen answer has the"
                    " lower score",
                )
            return chosen - rejected
        if INSIDE_LIST in self.margin:
            scores = [_number(value, self.margin) for value in values_at(fields, self.margin)]
            return max(scores) - min(scores)
        margin = _number(value_at(fields, self.margin), self.margin)
        if margin < 0:
            raise RefusedLine("negative_margin", f"{self.margin!r} is {margin:g}; it must be 0 or more")
        return margin


def number_of(value: Any) -> float | None:
    """Return a finite number, which may be written as text; None for anything else."""
    if type(value) not in (int, float, str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _number(value: Any, path: str) -> float:
    found = number_of(value)
    if found is None:
        shown = "missing" if value is ABSENT or value is None else repr(value)[:40]
        raise RefusedLine("no_margin", f"{path!r} is {shown}; it must be a number")
    return found
