"""Text from the data, made safe to look at: shortened with a note, and with nothing invisible in it.

Escaping for HTML is the template's work (autoescape); this module does what escaping cannot.
"""

import re
from dataclasses import dataclass

from snaketune.report import units

# Invisible characters that can make a text read differently from what it holds: controls (terminal escapes), direction
# marks and overrides, zero-width spaces, line separators, tag characters, and surrogates that UTF-8 cannot write.
# Zero-width joiners stay: scripts and emoji need them.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The beginning of a text, and a note that says how much is missing (empty when nothing is)."""

    text: str
    note: str = ""


def visible(text: str) -> str:
    """Return ``text`` with invisible characters written out, such as ``\u241b`` or ``⟨U+202E⟩``."""
    return HIDDEN.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    point = ord(match.group())
    return chr(0x2400 + point) if point < 0x20 else f"\u27e8U+{point:04X}\u27e9"


def excerpt(value: object, limit: int) -> Excerpt:
    """Return at most ``limit`` characters of ``value``, made visible, with a note when there are more."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    if len(text) <= limit:
        return Excerpt(visible(text))
    return Excerpt(visible(text[:limit]), f"first {units.count(limit)} of {units.count(len(text), 'character')}")
