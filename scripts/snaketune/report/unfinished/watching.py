"""Running trainings as a few lines of text, read from their metrics files only."""

import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.core.canonical import read_json
from snaketune.facts.plan_facts import planned_steps
from snaketune.report import units
from snaketune.report.charts.curves import Metrics, gather, growing_lines
from snaketune.report.unfinished.unfinished import newest_checkpoint

BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
# Logged intervals that the expected rate of the remaining steps is based on.
RECENT = 20
# A training on another machine counts as running if it logged something within this many seconds.
FRESH_SECONDS = 120.0
# No training has more steps, and an end a century away is not worth showing.
MOST_STEPS, FURTHEST_SECONDS = 10**9, 3e9


@dataclass(frozen=True, slots=True)
class Watched:
    """A training under way.

    Attributes:
        name: run and variant, or the training's fingerprint where the run is not known.
        lines: its metrics so far.
        max_steps: None where nothing says how long it will be.
        logged: when the last line was written, in seconds since the epoch.
    """

    name: str
    lines: tuple[Mapping[str, Any], ...]
    max_steps: int | None
    logged: float


def find_trainings(work: Path, now: float) -> list[Watched]:
    """Return the trainings under way whose private folders are in ``work``, sorted by name.

    Args:
        work: the folder of resumable state.
        now: seconds since the epoch.
    """
    found = (_watched(folder, now) for folder in work.glob("runs/*/"))
    return sorted((training for training in found if training), key=lambda training: training.name)


def _watched(folder: Path, now: float) -> Watched | None:
    metrics, arguments = folder / "metrics.jsonl", _arguments_of_holder(folder / "lock")
    logged = metrics.stat().st_mtime if metrics.is_file() else 0.0
    if arguments is None and now - logged > FRESH_SECONDS:
        return None
    run = _run_folder(arguments or [])
    newest = newest_checkpoint(folder)
    wanted = _steps_of(folder / f"checkpoint-{newest}") if newest is not None else None
    wanted = wanted or (planned_steps(run) if run else None)
    lines = growing_lines(metrics)
    if wanted and lines and lines[-1]["step"] >= wanted and arguments is None:
        return None
    name = f"{run.parent.name} {run.name}" if run else folder.name
    return Watched(name, tuple(lines), wanted, logged or now)


def _steps_of(checkpoint: Path) -> int | None:
    """Return the steps of the whole training that a checkpoint names; None if it names none that can be."""
    facts = read_json(checkpoint / "checkpoint.json")
    steps = facts.get("max_steps") if isinstance(facts, dict) else None
    return steps if type(steps) is int and 0 < steps < MOST_STEPS else None


def _arguments_of_holder(lock: Path) -> list[str] | None:
    """Return the command line of the living process that holds a lock, None where there is none on this machine."""
    try:
        words = Path(f"/proc/{int(lock.read_text())}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    arguments = [word.decode("utf-8", "replace") for word in words]
    return arguments if any(word.endswith("train_model.py") for word in arguments) else None


def _run_folder(arguments: Sequence[str]) -> Path | None:
    """Return the results folder of the run that a training's command line names."""
    wanted = (Path(after).parent for word, after in itertools.pairwise(arguments) if word == "--adapter")
    return next(wanted, None)


def describe_trainings(trainings: Sequence[Watched], width: int, work: Path) -> str:
    """Return what a terminal of ``width`` characters shows."""
    if not trainings:
        return f"No training is running in {work}."
    return "\n\n".join("\n".join(line[:width] for line in describe_training(training, width)) for training in trainings)


def describe_training(training: Watched, width: int) -> list[str]:
    """Return the lines of one training: its name and step, its loss as a sparkline and its expected end."""
    metrics = gather(training.lines)
    losses = metrics.curves["loss"].points
    if not losses:
        return [training.name, "no step has been logged yet"]
    step, loss = losses[-1]
    held_out = metrics.curves["eval_loss"].points
    latest = {name: curve.points[-1][1] for name, curve in {**metrics.rates, **metrics.curves}.items() if curve.points}
    parts = [f"step {units.count(step)}{_of(step, training.max_steps)}", f"loss {units.plain(loss)}"]
    parts += [f"held-out {units.plain(held_out[-1][1])}"] if held_out else []
    parts += [f"lr {latest['learning_rate']:.2e}"] if "learning_rate" in latest else []
    parts += [f"{latest['tokens_per_second']:,.0f} tokens/s"] if "tokens_per_second" in latest else []
    parts += [f"MFU {units.percent(latest['mfu'])}"] if "mfu" in latest else []
    parts += [f"{units.significant(latest['memory_gb'])} GB"] if "memory_gb" in latest else []
    ends = expected_end(metrics, training.max_steps, training.logged)
    parts += [f"ends {clock(ends)}"] if ends else []
    return [training.name, "  ".join(parts), f"loss {sparkline([value for _, value in losses], width - 5)}"]


def _of(step: int, wanted: int | None) -> str:
    return f"/{units.count(wanted)} ({step / wanted:.0%})" if wanted else ""


def expected_end(metrics: Metrics, max_steps: int | None, logged: float) -> float | None:
    """Return when the last step is expected, in seconds since the epoch, at the speed of the latest intervals."""
    known = [(step, one.seconds) for step, one in sorted(metrics.progress.items()) if one.seconds is not None]
    if max_steps is None or not known:
        return None
    recent = [(0, 0.0), *known][-RECENT - 1 :]
    (first, began), (last, now) = recent[0], recent[-1]
    left = (now - began) / max(last - first, 1) * max(max_steps - last, 0)
    return logged + left if left < FURTHEST_SECONDS else None


def clock(seconds: float) -> str:
    """Return a time as day and local clock time."""
    return time.strftime("%a %H:%M:%S", time.localtime(seconds))


def sparkline(values: Sequence[float], width: int) -> str:
    """Return values as blocks from the lowest to the highest; of values that share a block the highest is shown."""
    finite = [value for value in values if value - value == 0]
    if not finite or width < 1:
        return ""
    count = min(width, len(finite))
    tops = [max(finite[i * len(finite) // count : (i + 1) * len(finite) // count]) for i in range(count)]
    low, span = min(tops), max(tops) - min(tops)
    return "".join(BLOCKS[round((top - low) / span * (len(BLOCKS) - 1)) if span else 0] for top in tops)


def changes_of(work: Path, has_ended: Callable[[], bool]) -> Iterator[str]:
    """Yield the lines of the running trainings whenever they change.

    Args:
        work: the folder of resumable state.
        has_ended: waits until the next update; returns True to end.
    """
    shown = ""
    while True:
        text = describe_trainings(find_trainings(work, time.time()), shutil.get_terminal_size().columns, work)
        if text != shown:
            yield text
        shown = text
        if has_ended():
            return
