"""Values of raw records that must be text, and the sentence for one that is something else."""

from collections.abc import Iterable, Mapping
from typing import Any

from snaketune.data.records.parsing import KINDS
from snaketune.data.records.quarantine import Refusal

KEYS_SHOWN = 12
# Why a record is set aside that is not a bad line: it is counted, and does not count as one.
OTHER_MODALITY = "other_modality"
JUDGED_WRONG = "judged_wrong"
SET_ASIDE = (OTHER_MODALITY, JUDGED_WRONG)
# Between these a number is written without an exponent.
SMALLEST, LARGEST = 1e-4, 1e16


def text_of(record: Mapping[str, Any], name: str, when_empty: str) -> str:
    """Return the text of a field exactly as it stands.

    Raises:
        Refusal: if it is missing, no text, or blank; the last with the reason ``when_empty``.
    """
    value = record.get(name)
    if type(value) is not str:
        raise refuse_value(record, name, "text")
    if not value or value.isspace():
        raise Refusal(when_empty, f"{name!r} has no text")
    return value


def answer_of(record: Mapping[str, Any], name: str) -> str:
    """Return the text of an answer; whole numbers, decimal fractions, true and false are what JSON writes for them.

    A fraction is written with the fewest digits that name it: 1.50 is 1.5.

    Raises:
        Refusal: if it is missing, blank, or neither text nor such a value.
    """
    value = record.get(name)
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is int or (type(value) is float and (value == 0 or SMALLEST <= abs(value) < LARGEST)):
        return str(value)
    return text_of(record, name, "empty_completion")


def refuse_value(record: Mapping[str, Any], name: str, expected: str, place: str = "") -> Refusal:
    """Return the refusal of a field that is missing, null or of the wrong type; ``place`` says where it is."""
    inside = f"{place}: " if place else ""
    if name not in record:
        return Refusal("missing_field", f"{inside}there is no {name!r}; found: {listed(record)}")
    if record[name] is None:
        return Refusal("null_content", f"{inside}{name!r} is null, it must be {expected}")
    return Refusal("wrong_type", f"{inside}{name!r} is {KINDS[type(record[name])]}, it must be {expected}")


def listed(names: Iterable[str]) -> str:
    """Return names for a sentence: the first twelve, long ones shortened."""
    shown = [name if len(name) <= 40 else f"{name[:40]}…" for name in names]
    return ", ".join(shown[:KEYS_SHOWN]) + (", …" if len(shown) > KEYS_SHOWN else "") or "nothing"
