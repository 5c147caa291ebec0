"""Values of raw records that must be text, and the refusal of other values."""

from collections.abc import Iterable, Mapping
from typing import Any

from snaketune.data.records.parsing import JSON_TYPES
from snaketune.data.records.quarantine import RefusedLine

KEYS_SHOWN = 12
# Reasons to set a valid record aside: it is counted, but not as a bad line.
OTHER_MODALITY = "other_modality"
JUDGED_WRONG = "judged_wrong"
SET_ASIDE = (OTHER_MODALITY, JUDGED_WRONG)
# In this range Python writes a float without an exponent.
SMALLEST_PLAIN, LARGEST_PLAIN = 1e-4, 1e16


def text_of(record: Mapping[str, Any], name: str, when_empty: str) -> str:
    """Return the text of a field, unchanged.

    Raises:
        Refusal: if it is missing, not text, or blank (with the reason ``when_empty``).
    """
    value = record.get(name)
    if type(value) is not str:
        raise refuse_value(record, name, "text")
    if not value or value.isspace():
        raise RefusedLine(when_empty, f"{name!r} has no text")
    return value


def answer_of(record: Mapping[str, Any], name: str) -> str:
    """Return the text of an answer; numbers, true and false become their JSON text.

    A decimal fraction is written with the fewest digits that identify it: 1.50 becomes 1.5.

    Raises:
        Refusal: if it is missing, blank, or neither text nor such a value.
    """
    value = record.get(name)
    if type(value) is bool:
        return "true" if value else "false"
    # Outside this range Python writes an exponent, and the text of the answer might not be what the file shows.
    if type(value) is int or (type(value) is float and (value == 0 or SMALLEST_PLAIN <= abs(value) < LARGEST_PLAIN)):
        return str(value)
    return text_of(record, name, "empty_completion")


def refuse_value(record: Mapping[str, Any], name: str, expected: str, place: str = "") -> RefusedLine:
    """Return the refusal of a field at ``place`` that is missing, null or of the wrong type."""
    inside = f"{place}: " if place else ""
    if name not in record:
        return RefusedLine("missing_field", f"{inside}there is no {name!r}; found: {listed(record)}")
    if record[name] is None:
        return RefusedLine("null_content", f"{inside}{name!r} is null, it must be {expected}")
    return RefusedLine("wrong_type", f"{inside}{name!r} is {JSON_TYPES[type(record[name])]}, it must be {expected}")


def listed(names: Iterable[str]) -> str:
    """Return names for a message: the first twelve, with long ones shortened."""
    shown = [name if len(name) <= 40 else f"{name[:40]}…" for name in names]
    return ", ".join(shown[:KEYS_SHOWN]) + (", …" if len(shown) > KEYS_SHOWN else "") or "nothing"
