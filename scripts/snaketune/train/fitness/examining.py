"""All checks of a card, one after the other, each with its verdict: passed, failed, or not here."""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from snaketune.train.device import prepare_arithmetic
from snaketune.train.fitness.bench import ORDINARY, REDUCED, Bench
from snaketune.train.fitness.checks import CHECKS, free
from snaketune.train.fitness.trials import NotHereError, Seen

PASSED, FAILED, NOT_HERE = "passed", "failed", "not here"
SECONDS = 360.0
"""No check begins after it: those left are "not here", and the card is not called fit."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a check.

    Attributes:
        verdict: ``passed``, ``failed`` or ``not here``.
        said: one sentence.
        figures: numbers, with the unit in the name.
        seconds: that it took.
    """

    name: str
    verdict: str
    said: str
    figures: dict[str, Any]
    seconds: float


def examine(
    is_reduced: bool = False, checks: dict[str, Callable[[Bench], Seen]] = CHECKS, seconds: float = SECONDS
) -> dict[str, Any]:
    """Return the findings of all checks on the device of this process.

    Args:
        is_reduced: tiny shapes, as on a CPU: every line of the checks runs, speed means nothing.
        checks: by name.
        seconds: no check begins after them.

    Returns:
        ``is_fit`` (nothing failed, nothing was left out for time, and there is a GPU), ``device`` and ``findings``.
    """
    device = prepare_arithmetic(2)
    size = REDUCED if is_reduced or device.is_cpu else ORDINARY
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        bench = Bench.build(device, size, Path(work))
        findings = list(_findings(bench, checks, began + seconds))
    return {
        "is_fit": not device.is_cpu and all(each.verdict != FAILED for each in findings),
        "device": device.type,
        "findings": [asdict(each) for each in findings],
        "seconds": round(time.monotonic() - began, 1),
    }


def _findings(bench: Bench, checks: dict[str, Callable[[Bench], Seen]], end: float) -> Iterator[Finding]:
    for name, check in checks.items():
        began = time.monotonic()
        if began > end:
            yield Finding(name, FAILED, "not reached: the checks before it took too long", {}, 0.0)
            continue
        verdict, seen = _verdict(bench, check)
        found = Finding(name, verdict, seen.said, seen.figures, round(time.monotonic() - began, 2))
        print(f"{found.verdict:9} {found.name:32} {found.said}", flush=True)
        yield found
        free()


def _verdict(bench: Bench, check: Callable[[Bench], Seen]) -> tuple[str, Seen]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return PASSED, check(bench)
    except NotHereError as reason:
        return NOT_HERE, Seen(str(reason))
    except Exception as error:  # whatever goes wrong on a card is what the check is for
        text = " ".join(str(error).split())
        return FAILED, Seen(f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__)
