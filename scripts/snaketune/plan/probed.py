"""What a probe measured, as facts that are kept: for which device, model, rows and settings they hold."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from snaketune.common.canonical import digest_of
from snaketune.plan.earlier import Measurement, is_device
from snaketune.plan.memory import CONTEXT_GB
from snaketune.plan.target import Target

FOLDER = "probes"
"""Under the results folder: probes are shared by all runs that they hold for."""
WITHOUT_EFFECT = {
    "model": ("name_or_path", "revision", "base"),
    "adapter": ("lora_alpha", "alpha_pattern", "use_rslora", "init_from", "start"),
    "train": (
        "learning_rate",
        "lr_scheduler_type",
        "warmup_ratio",
        "weight_decay",
        "max_grad_norm",
        "num_train_epochs",
        "max_steps",
        "eval_steps",
        "seed",
        "strategy",
    ),
}
"""Settings that cannot change how fast a step is, or that a probe does not heed."""
LOADER = ("dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory")


def probe_identity(
    cfg: Mapping[str, Any],
    settings: Mapping[str, Any],
    model: Mapping[str, Any],
    rows: Mapping[str, Any],
    device: Mapping[str, Any],
    versions: Mapping[str, str],
) -> str:
    """Return the name under which a probe is kept: runs that agree on it are as fast as each other.

    Args:
        cfg: the ``train``, ``adapter`` and ``model`` sections.
        settings: operational settings of training.
        model, rows: the manifests of the model and of its packed rows.
        device: the GPU's name, or host and kind of the CPU.
        versions: of the packages that train.
    """
    sections = {
        section: {name: value for name, value in cfg[section].items() if name not in left_out}
        for section, left_out in WITHOUT_EFFECT.items()
    }
    architecture = {name: entry for name, entry in model["files"].items() if name.endswith("config.json")}
    parts = {"settings": sections, "loader": {name: settings[name] for name in LOADER}}
    parts |= {"model": [architecture, model["parameters"], model["dtype"]], "rows": rows["files"]}
    return digest_of({**parts, "device": device, "versions": versions}, size=8)


def probe_path(results: Path, identity: str) -> Path:
    """Return where a probe is kept."""
    return results / FOLDER / f"{identity}.json"


def kept_probe(own: Path) -> dict[str, Any] | None:
    """Return the probe that a run was planned with before, None where there is none."""
    try:
        return json.loads((own / "probe.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def probe_block(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what plan.json says about a probe and about autotuning; None where there was none."""
    if not record:
        return {"probe": None, "autotune": None}
    names = ("tokens_per_second", "spread", "rates", "peak_memory_bytes", "save_seconds", "start_seconds")
    block = {name: record["probe"][name] for name in names} | {"steps": record["probe"]["measured_steps"]}
    block |= {name: record[name] for name in ("identity", "measured_at", "load", "origin")}
    return {"probe": block, "autotune": record["autotune"]}


def measurement_of(record: Mapping[str, Any] | None, target: Target) -> Measurement | None:
    """Return what a probe says about the target device, None without one or when it ran on another device."""
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
    """Return what was measured last: a probe when no run of the kind has ended since."""
    if run is None or probe is None:
        return probe or run
    return probe if probe.finished >= run.finished else run


def describe_probe(record: Mapping[str, Any]) -> list[str]:
    """Return a probe as lines for people."""
    found = record["probe"]
    lines = [
        f"Probe: {found['tokens_per_second']:,.0f} tokens/s (measured, median of {len(found['rates'])}, spread"
        f" {found['spread']:.0%}), peak memory {found['peak_memory_bytes'] / 1e9:.2f} GB, a checkpoint takes"
        f" {found['save_seconds']:.2g} s; load of the machine before: {record['load']:.2g}."
    ]
    return lines + (describe_tuning(record["autotune"]) if record["autotune"] else [])


def describe_tuning(tuned: Mapping[str, Any]) -> list[str]:
    """Return the result of autotuning in one sentence: what to change, or that nothing is faster."""
    measured = sum(row["verdict"] == "measured" for row in tuned["candidates"])
    tried = f"{measured} of {len(tuned['candidates'])} settings that train the same were measured"
    if not tuned["advice"]:
        return [f"Autotune: keep the settings; {tried} and none is faster than the spread of the repeats."]
    given = tuned["advice"]
    changes = ", ".join(f"{key}: {str(value).lower()}" for key, value in given["changes"].items())
    return [f"Autotune: {given['speed_up']:.2f} times as fast with {changes} ({tried}); it is yours to set."]
