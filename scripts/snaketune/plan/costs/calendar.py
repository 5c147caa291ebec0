"""When a run would end if started now, this evening or on Friday evening."""

from datetime import datetime, timedelta
from typing import Any

from snaketune.plan.costs.budget import finishes_at

EVENING = 18
FRIDAY = 4


def schedule(now: datetime, hours: float | None) -> list[dict[str, Any]]:
    """Return start, end and both in words, for now, this evening and Friday evening; nothing for unknown hours."""
    if hours is None:
        return []
    return [_entry(name, start, hours) for name, start in _starts(now).items()]


def _starts(now: datetime) -> dict[str, datetime]:
    evening = now.replace(hour=EVENING, minute=0, second=0, microsecond=0)
    if evening < now:
        # After 18:00 the next start in the evening is tomorrow's.
        evening += timedelta(days=1)
    friday = evening + timedelta(days=(FRIDAY - evening.weekday()) % 7)
    return {"now": now, "evening": evening} | ({"friday": friday} if friday != evening else {})


def _entry(name: str, start: datetime, hours: float) -> dict[str, Any]:
    end = finishes_at(start, hours)
    return {
        "name": name,
        "start": start.isoformat(timespec="seconds"),
        "end": end.isoformat(timespec="seconds"),
        "text": span(start, end),
    }


def span(start: datetime, end: datetime) -> str:
    """Format start and end: ``Fri 18:00 -> Sat 07:40``, with dates if they are a week or more apart."""
    # A weekday alone is ambiguous from the seventh day on; six leaves room for the hours of both ends.
    is_far = end - start >= timedelta(days=6)
    return f"{moment(start)} -> {moment(end)}" + (f" ({end:%d %b})" if is_far else "")


def moment(time: datetime) -> str:
    """Format a moment: ``Fri 18:00``."""
    return f"{time:%a %H:%M}"
