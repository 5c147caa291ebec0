"""Records of probes, and the device, model, rows and settings that they apply to."""

from datetime import datetime
from pathlib import Path
from typing import Any

from snaketune.core.errors import DataError
from snaketune.facts.probe_facts import PROBE, Autotune, ProbeRecord
from snaketune.plan.costs.past_runs import Measurement, is_device
from snaketune.plan.devices.target import Target
from snaketune.plan.memory.memory import CONTEXT_GB

PROBE_FOLDER = "probes"
"""Under the results folder: a probe is shared by all runs that it holds for."""


NOISY = 0.2
"""Spread of the repeats above which other work must have disturbed the probe: it is not reused for other runs."""


def noise(record: ProbeRecord | None) -> str:
    """Return a sentence about a probe whose repeats differ too much, else an empty string."""
    if not record or record["probe"]["spread"] <= NOISY:
        return ""
    return (
        f"the repeats of the probe differ by {record['probe']['spread']:.0%}, so other programs were using the "
        "machine; remove probe.json in the run's folder and plan again when it is idle"
    )


def probe_path(results: Path, identity: str) -> Path:
    """Return the path of a probe's record."""
    return results / PROBE_FOLDER / f"{identity}.json"


def read_probe(path: Path) -> ProbeRecord | None:
    """Return the record of a probe; None if it is missing, damaged or of another version, and has to be made again."""
    try:
        return PROBE.read(path)
    except DataError:
        return None


def kept_probe(own: Path) -> ProbeRecord | None:
    """Return the probe that a run was planned with before; None without one."""
    return read_probe(own / "probe.json")


def probe_block(record: ProbeRecord | None) -> dict[str, Any]:
    """Return the entries of plan.json on the probe and on autotuning; None without them."""
    if not record:
        return {"probe": None, "autotune": None}
    found = record["probe"]
    block: dict[str, Any] = {
        "identity": record["identity"],
        "measured_at": record["measured_at"],
        "load": record["load"],
        "origin": record["origin"],
        "tokens_per_second": found["tokens_per_second"],
        "spread": found["spread"],
        "rates": found["rates"],
        "peak_memory_bytes": found["peak_memory_bytes"],
        "save_seconds": found["save_seconds"],
        "start_seconds": found["start_seconds"],
        "steps": found["measured_steps"],
    }
    if answers := found.get("answers"):
        block["answers"] = answers
    return {"probe": block, "autotune": record["autotune"]}


def measurement_of(record: ProbeRecord | None, target: Target) -> Measurement | None:
    """Return a probe's measurement for the target device; None without a probe or if it ran on another device."""
    if not record or not is_device(record["machine"]["gpu"], target):
        return None
    found, gpu = record["probe"], record["machine"]["gpu"]
    rates, seconds = found["rates"], found["evaluation_seconds"]
    day = datetime.fromisoformat(record["measured_at"])
    return Measurement(
        tokens_per_second=found["tokens_per_second"],
        slowest=min(rates),
        fastest=max(rates),
        start_seconds=found["start_seconds"],
        save_seconds=found["save_seconds"],
        evaluation_rate=found["evaluation_tokens"] / seconds if seconds else None,
        memory_gb=found["peak_memory_bytes"] / 1e9 + (CONTEXT_GB["cuda"] if gpu else 0.0),
        finished=day,
        source=f"probe of {found['measured_steps']} steps on {day:%d %b %Y %H:%M}",
    )


def newest(run: Measurement | None, probe: Measurement | None) -> Measurement | None:
    """Return the newest measurement: the probe, unless a run of this kind has ended since."""
    if run is None or probe is None:
        return probe or run
    return probe if probe.finished >= run.finished else run


def describe_probe(record: ProbeRecord) -> list[str]:
    """Format a probe as lines of text."""
    found = record["probe"]
    lines = [
        f"Probe: {found['tokens_per_second']:,.0f} tokens/s (measured, median of {len(found['rates'])}, spread"
        f" {found['spread']:.0%}), peak memory {found['peak_memory_bytes'] / 1e9:.2f} GB, a checkpoint takes"
        f" {found['save_seconds']:.2g} s; load of the machine before: {record['load']:.2g}."
    ]
    if answers := found.get("answers"):
        lines.append(
            f"Generation: {answers['generation_share']:.0%} of the time, answers of {answers['answer_tokens']:.0f}"
            f" tokens to prompts of {answers['prompt_tokens']:.0f} (measured)."
        )
    return lines + (describe_tuning(record["autotune"]) if record["autotune"] else [])


def describe_tuning(tuned: Autotune) -> list[str]:
    """Return the result of autotuning in one sentence: what to change, or that nothing is faster."""
    measured = sum(row["verdict"] == "measured" for row in tuned["candidates"])
    tried = f"{measured} of {len(tuned['candidates'])} equivalent settings were measured"
    if not tuned["advice"]:
        return [f"Autotune: keep the settings; {tried}, none faster by more than the spread of the repeats."]
    given = tuned["advice"]
    changes = ", ".join(f"{key}: {str(value).lower()}" for key, value in given["changes"].items())
    gain = f"{given['speed_up']:.2f} times as fast" if given["speed_up"] else "it fits and is fastest"
    return [f"Autotune: {gain} with {changes} ({tried}); apply it if you like."]
