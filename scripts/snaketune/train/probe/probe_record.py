"""The probe of a run: taken from the record of an identical earlier one, else measured and recorded."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from snaketune.core.canonical import digest_of
from snaketune.core.gpus import take_cards
from snaketune.core.locks import wait_for_lock
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.facts.data_facts import PACKING, Packing
from snaketune.facts.model_facts import PREPARED_MODEL, PreparedModel
from snaketune.facts.probe_facts import PROBE, ProbeRecord
from snaketune.plan.costs.probed import describe_probe, noise, probe_path, read_probe
from snaketune.settings.operational import Operational
from snaketune.settings.training_slices import ProbeSlice, TrainingSlice
from snaketune.train.monitoring import provenance
from snaketune.train.packages import versions
from snaketune.train.probe.autotune import autotune
from snaketune.train.probe.probing import ProbeInputs, probe

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
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
        "early_stopping_patience",
        "early_stopping_threshold",
        "seed",
        "strategy",
    ),
}
"""Settings that do not affect the speed of a step, or that a probe ignores."""
LOADER_SETTINGS = ("dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory")

STEPS, WARMUP_STEPS, REPEATS = 2, 4, 3
REPEAT_SECONDS = 4.0
MAX_SECONDS = 240.0
"""Time limit of training: no repeat starts after it."""
CANDIDATE_SECONDS = 60.0
EVALUATED_ROWS = 64


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """A run to probe: its configuration, its facts and where to write to."""

    cfg: TrainingSlice
    """The ``train``, ``adapter`` and ``model`` sections."""
    settings: Operational
    model: PreparedModel
    model_folder: Path
    pack: Packing
    rows_folder: Path
    results: Path
    scratch: Path
    """A working folder on the disk of the checkpoints."""
    tunes: bool
    """Whether equivalent settings are measured as well."""


def probe_of(request: ProbeRequest) -> ProbeRecord:
    """Return the record of a probe for this run on this machine; it is kept under the results folder."""
    found = versions(request.cfg)
    identity = probe_identity(request.cfg, request.settings, request.model, request.pack, this_device(), found)
    path = probe_path(request.results, identity)
    record = read_probe(path)
    if record and record["identity"] == identity and not noise(record) and (record["autotune"] or not request.tunes):
        print(f"Already measured on {record['measured_at']}: {path}", flush=True)
        return record
    PROBE.write(path, _measure(request, identity, found))
    return PROBE.read(path)


def _measure(request: ProbeRequest, identity: str, found: Mapping[str, str]) -> dict[str, Any]:
    load = os.getloadavg()[0]
    rows, held_out = (PackedRows(request.rows_folder / name) for name in ("train.arrow", "eval.arrow"))
    inputs = ProbeInputs(request.model_folder, rows, held_out, request.scratch / identity)
    measured = probe(
        inputs,
        request.cfg,
        request.settings,
        steps=STEPS,
        warmup_steps=WARMUP_STEPS,
        repeats=REPEATS,
        repeat_seconds=REPEAT_SECONDS,
        held_out_rows=EVALUATED_ROWS,
        max_seconds=MAX_SECONDS,
    )
    clock = provenance.Stopwatch()
    tuned = None
    if request.tunes:
        tuned = autotune(inputs, request.cfg, request.settings, measured, CANDIDATE_SECONDS)
    return {
        "identity": identity,
        "measured_at": clock.started,
        "machine": provenance.describe_machine(),
        "load": load,
        "versions": dict(found),
        "unit": "real tokens per second of one device",
        "origin": "measured",
        "probe": {**asdict(measured), "start_seconds": measured.start_seconds},
        "autotune": tuned,
    }


def this_device() -> dict[str, Any]:
    """Return the device that throughput is measured on: the kind of GPU, or this machine's CPU."""
    if torch.cuda.is_available():
        return {"gpu": torch.cuda.get_device_name()}
    machine = provenance.describe_machine()
    return {"host": machine["host"], "cpu": machine["cpu_capability"]}


def probe_identity(
    cfg: TrainingSlice,
    settings: Operational,
    model: PreparedModel,
    rows: Packing,
    device: Mapping[str, Any],
    versions: Mapping[str, str],
) -> str:
    """Return the identity of a probe: runs with the same identity have the same speed.

    Args:
        cfg: the ``train``, ``adapter`` and ``model`` sections.
        settings: operational settings of training.
        model: manifest of the model.
        rows: manifest of the packed rows.
        device: the GPU's name, or host and kind of the CPU.
        versions: of the packages that train.
    """
    given, loader = cast(Mapping[str, Mapping[str, Any]], cfg), cast(Mapping[str, Any], settings)
    sections = {
        section: {name: value for name, value in given[section].items() if name not in left_out}
        for section, left_out in WITHOUT_EFFECT.items()
    }
    architecture = {name: entry for name, entry in model["files"].items() if name.endswith("config.json")}
    parts: dict[str, Any] = {"settings": sections, "loader": {name: loader[name] for name in LOADER_SETTINGS}}
    parts |= {"model": [architecture, model["parameters"], model["dtype"]], "rows": rows["files"]}
    return digest_of({**parts, "device": device, "versions": versions}, size=8)


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """The inputs of the stage, named like the flags of ``probe_run.py``, which documents them."""

    spec: str
    code: str
    cfg: ProbeSlice
    settings: Operational
    pack: Path
    model: Path
    results: Path
    scratch: Path
    output: Path


def probe_run(job: ProbeJob) -> None:
    """Write the measurement: a new one, or one recorded under the same conditions."""
    take_cards()
    # One at a time: concurrent probes on one device would slow each other down.
    lock = wait_for_lock(job.scratch / "lock")
    record = probe_of(
        ProbeRequest(
            cfg=job.cfg,
            settings=job.settings,
            model=PREPARED_MODEL.read(job.model),
            model_folder=job.model.parent / "model",
            pack=PACKING.read(job.pack),
            rows_folder=job.pack.parent,
            results=job.results,
            scratch=job.scratch,
            tunes=job.cfg["autotune"],
        )
    )
    for line in describe_probe(record):
        print(line, flush=True)
    PROBE.write(job.output, record)
    lock.close()
