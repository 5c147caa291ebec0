"""A run to plan, without files of its own: a model's configuration, fact files and a machine, all fixed."""

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plan_models import LLAMA_2_7B

from snaketune.config.resolve import Layer, resolve_runs
from snaketune.plan.costs.past_runs import find_measurement
from snaketune.plan.costs.throughput import Rate, rate_of
from snaketune.plan.devices.machine import Machine
from snaketune.plan.devices.target import choose_target
from snaketune.plan.planning import PlanInputs, make_plan
from snaketune.plan.workload import read_work, speed_key
from snaketune.workflow.stages import slice_of

SETTINGS = {"save_steps": 100, "save_total_limit": 2, "hours_between_interruptions": 24.0}
RIGHTSIZE = {
    "histogram": [{"from": 0, "to": 501, "records": 4000}, {"from": 501, "to": 1001, "records": 1000}],
    "max_length": 1024,
    "on_too_long": "drop",
    "longest": 1000,
    "model_context": 4096,
}
PACK: dict[str, Any] = {
    "row_length": 1024,
    "packing": True,
    "files": {"train.arrow": {"bytes": 30_000_000, "digest": "d"}},
    "splits": {
        "train": {"rows": 1760, "documents": 5000, "tokens": 1_750_000},
        "eval": {"rows": 20, "documents": 50, "tokens": 17_500},
    },
}
MODEL = {"parameters": 6_738_415_616, "dtype": "BF16", "files": {"model/model.safetensors": {"bytes": 13_476_831_232}}}
MACHINE = Machine("here", None, 0, None, False, ram_gb=64.0, free_disk_gb=500.0)
FRIDAY = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)


def sections(**changed: Any) -> dict[str, Any]:
    """The slice of the configuration that a plan depends on."""
    file = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "org/model"}}
    return slice_of(resolve_runs(Layer("c", file), changed, "nowhere")[0].config, "plan_run")


SAVED: dict[int, tempfile.TemporaryDirectory] = {}


def saved(config: Any) -> Path:
    """A folder with the configuration; always the same one, so that what was counted for it is remembered."""
    if id(config) not in SAVED:
        SAVED[id(config)] = tempfile.TemporaryDirectory()
        config.save_pretrained(SAVED[id(config)].name)
    return Path(SAVED[id(config)].name)


def inputs(folder: Path, config: Any = LLAMA_2_7B, **changed: Any) -> PlanInputs:
    """What the plan of a run with ``changed`` sections is made from; earlier runs are looked for in ``folder``."""
    return PlanInputs(
        cfg=sections(**changed),
        settings=SETTINGS,
        rightsize=RIGHTSIZE,
        pack=PACK,
        model=MODEL,
        model_folder=saved(config),
        results=folder / "results",
        own=folder / "results" / "runs" / "own" / "lora-r16-00000000",
        machine=MACHINE,
        now=FRIDAY,
    )


def plan_of(folder: Path, given: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    """The plan of a run; ``given`` replaces fields of the inputs."""
    return make_plan(replace(inputs(folder, **changed), **(given or {})))


def rate_in(folder: Path, **changed: Any) -> Rate:
    """The rate that the plan of a run would have, without the tables around it."""
    given = inputs(folder, **changed)
    target = choose_target(given.cfg["plan"], given.machine)
    work = read_work(given.cfg, given.model_folder, given.model, given.rightsize, given.pack, target)
    speed, flops = speed_key(given.cfg, work, target), work.flops_per_token()
    found = find_measurement(given.results, given.own, speed, flops, target, given.machine.host)
    return rate_of(work, target.hardware, given.cfg["plan"]["utilization"], found)
