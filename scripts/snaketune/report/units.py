"""Formatting of all numbers in the report, with units, in one style independent of the locale."""

import math

NOT_MEASURED = "not measured"
MINUS = "\u2212"
KILO = 1000
SIZES = ("kB", "MB", "GB", "TB")


def count(value: int | None, noun: str = "") -> str:
    """Return ``1,234`` or, with a noun, ``1,234 records``; the noun is given in the singular."""
    if value is None:
        return NOT_MEASURED
    text = f"{value:,}".replace("-", MINUS)
    return f"{text} {_plural(noun, value)}" if noun else text


def _plural(noun: str, value: int) -> str:
    if value == 1:
        return noun
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2] not in "aeiou" else f"{noun}s"


def percent(fraction: float | None) -> str:
    """Return a fraction as per cent with one decimal; a part never reads 100.0%, and a non-zero part never 0.0%."""
    if fraction is None:
        return NOT_MEASURED
    if 0 < fraction < 0.0005:
        return "<0.1%"
    if 0.9995 <= fraction < 1:
        return ">99.9%"
    return f"{fraction * 100:.1f}%".replace("-", MINUS)


def share(part: int | None, whole: int | None) -> str:
    """Return ``part`` of ``whole`` as per cent; unknown where there is no whole."""
    return NOT_MEASURED if part is None or not whole else percent(part / whole)


def points(difference: float | None) -> str:
    """Return the difference of two fractions in percentage points, signed."""
    if difference is None:
        return NOT_MEASURED
    return f"{_sign(round(difference * 100, 1))}{abs(difference * 100):.1f} points"


def significant(value: float | None, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` significant digits: 1.52, 0.0112, 12,300, 3.1e-8."""
    if value is None:
        return NOT_MEASURED
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if exponent < -4 or exponent > 6:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa.replace('-', MINUS)}e{int(power)}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace("-", MINUS)


def signed(difference: float | None, digits: int = 3) -> str:
    """Return a difference with its sign and ``digits`` significant digits."""
    if difference is None or not math.isfinite(difference):
        return significant(difference, digits)
    return f"{_sign(difference)}{significant(abs(difference), digits)}"


def _sign(value: float) -> str:
    return MINUS if value < 0 else "+" if value > 0 else ""


def plain(value: float | int | None) -> str:
    """Return a number of a metrics table: integers whole, floats with four significant digits."""
    if value is None or isinstance(value, int):
        return count(value)
    return significant(value, 4)


def file_size(size: int | None) -> str:
    """Return a size in bytes as 812 bytes, 1.2 kB, 3.4 MB or 5.6 GB (decimal units)."""
    if size is None:
        return NOT_MEASURED
    if size < KILO:
        return count(size, "byte")
    power = min(len(SIZES), int(math.log10(size) + 1e-4) // 3)
    return f"{size / KILO**power:,.1f} {SIZES[power - 1]}"
