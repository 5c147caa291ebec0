"""A cache between commands: all of it can be recomputed, so a damaged one never stops a run."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from snaketune.core.atomic import write_json
from snaketune.core.canonical import digest_of, read_json
from snaketune.core.errors import say


def read_state(path: str | Path, is_right: Callable[[Any], bool]) -> dict[str, Any]:
    """Return what :func:`write_state` wrote; an empty dictionary, with a printed note, if the file is unusable.

    A damaged file is removed, so the note appears once.

    Args:
        path: the file.
        is_right: tells whether an entry has the expected form.
    """
    path = Path(path)
    try:
        found = read_json(path)
        if all(entry["digest"] == digest_of([name, entry["value"]], 4) for name, entry in found.items()):
            values = {name: entry["value"] for name, entry in found.items()}
            if all(map(is_right, values.values())):
                return values
        reason = "is damaged"
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = "is damaged or of another version"
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    say(f"{path} {reason}: its cached entries are recomputed.")
    if reason.startswith("is damaged"):
        with suppress(OSError):
            path.unlink()
    return {}


def write_state(path: str | Path, state: dict[str, Any]) -> None:
    """Remember ``state`` as :func:`keep` does.

    Each entry carries a digest, so that a flipped bit in it cannot pass for a computed value.
    """
    keep(path, {name: {"value": value, "digest": digest_of([name, value], 4)} for name, value in state.items()})


def keep(path: str | Path, value: dict[str, Any]) -> None:
    """Write a cache; print a note if it cannot be written."""
    try:
        write_json(path, value)
    except OSError as error:
        say(f"{path} cannot be written ({error.strerror}): its entries are recomputed next time.")
