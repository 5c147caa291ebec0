"""All checks of a GPU, one after the other, each with its verdict: passed, failed, or not here."""

import contextlib
import html
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from snaketune.core.errors import SnaketuneError
from snaketune.train.device import prepare_arithmetic
from snaketune.train.fitness.bench import ORDINARY, REDUCED, Bench
from snaketune.train.fitness.checks import CHECKS, free
from snaketune.train.fitness.trials import NotHereError, TrialResult

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.4rem .6rem;border-bottom:1px solid #ccc;"
    "vertical-align:top}.failed{color:#b00020;font-weight:600}.passed{color:#0b6b2e}pre{white-space:pre-wrap}"
)

PASSED, FAILED, NOT_HERE = "passed", "failed", "not here"
EXAMINATION_SECONDS = 360.0
"""No check starts after it: the remaining ones count as "not here", and the card is not called fit."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check.

    Attributes:
        verdict: ``passed``, ``failed`` or ``not here``.
        said: one sentence.
        figures: numbers, with the unit in the name.
        seconds: duration of the check.
    """

    name: str
    verdict: str
    said: str
    figures: dict[str, Any]
    seconds: float


def examine(
    is_reduced: bool = False,
    checks: dict[str, Callable[[Bench], TrialResult]] = CHECKS,
    seconds: float = EXAMINATION_SECONDS,
) -> dict[str, Any]:
    """Return the findings of all checks on the device of this process.

    Args:
        is_reduced: tiny shapes, as on a CPU: every line of the checks runs, but speed has no meaning.
        checks: by name.
        seconds: no check begins after this time.

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


def _findings(bench: Bench, checks: dict[str, Callable[[Bench], TrialResult]], end: float) -> Iterator[CheckResult]:
    for name, check in checks.items():
        began = time.monotonic()
        if began > end:
            yield CheckResult(name, FAILED, "not reached: the earlier checks took too long", {}, 0.0)
            continue
        verdict, seen = _verdict(bench, check)
        found = CheckResult(name, verdict, seen.said, seen.figures, round(time.monotonic() - began, 2))
        print(f"{found.verdict:9} {found.name:32} {found.said}", flush=True)
        yield found
        free()


def _verdict(bench: Bench, check: Callable[[Bench], TrialResult]) -> tuple[str, TrialResult]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return PASSED, check(bench)
    except NotHereError as reason:
        return NOT_HERE, TrialResult(str(reason))
    except Exception as error:  # any failure on a GPU is a result of the check
        text = " ".join(str(error).split())
        return FAILED, TrialResult(f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__)


def render_findings(found: dict[str, Any]) -> str:
    """Return the page with the findings of :func:`snaketune.train.fitness.examining.examine`."""
    rows = "".join(_row(each) for each in found["findings"])
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>GPU check</title><style>{STYLE}</style><h1>GPU check</h1><p>{html.escape(fitness_verdict(found))}</p>"
        "<table><thead><tr><th>check<th>verdict<th>what was seen<th>seconds</thead>"
        f"<tbody>{rows}</tbody></table><h2>All figures</h2>"
        f"<pre>{html.escape(json.dumps(found, indent=1, sort_keys=True))}</pre></html>\n"
    )


def fitness_verdict(found: dict[str, Any]) -> str:
    """Return one sentence on whether the card is fit."""
    failed = [each["name"] for each in found["findings"] if each["verdict"] == "failed"]
    left = sum(each["verdict"] == "not here" for each in found["findings"])
    if failed:
        return f"Not fit: {', '.join(failed)} failed."
    if found["device"] == "cpu":
        return f"No GPU: the checks ran in a reduced form on the CPU, {left} of them need a GPU or a package."
    return f"Fit: every check that applies passed; {left} need another card or a package."


def _row(finding: dict[str, Any]) -> str:
    cells = (finding["name"], finding["verdict"], finding["said"], f"{finding['seconds']:.1f}")
    name, verdict, said, seconds = map(html.escape, cells)
    return f"<tr><td>{name}<td class='{verdict.replace(' ', '-')}'>{verdict}<td>{said}<td>{seconds}</tr>"


def check_card(folder: Path, allow_cpu: bool) -> int:
    """Examine the card, write gpu_check.json and gpu_check.html into ``folder``, and return the exit status.

    Args:
        folder: where to.
        allow_cpu: whether it suffices, without a GPU, that nothing failed.
    """
    try:
        found = examine()
    except SnaketuneError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return error.exit_code
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_check.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    (folder / "gpu_check.html").write_text(render_findings(found))
    print(f"{fitness_verdict(found)} {folder / 'gpu_check.html'}")
    passed = all(each["verdict"] != "failed" for each in found["findings"])
    return 0 if found["is_fit"] or (allow_cpu and found["device"] == "cpu" and passed) else 1
