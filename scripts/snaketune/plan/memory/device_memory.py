"""The memory of a run on one of its devices, as planned and at least."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from snaketune.core.errors import PlanError
from snaketune.plan.advice.strategies import memory_per_gpu
from snaketune.plan.devices.target import Target
from snaketune.plan.memory.memory import MemoryPlan, memory_plan
from snaketune.plan.settings import CHECKPOINT_LEVELS
from snaketune.plan.workload import Work


def memory_of(cfg: Mapping[str, Any], work: Work, target: Target) -> tuple[MemoryPlan | None, tuple[str, ...]]:
    """Return the memory of one device, and why it is not known where it is not."""
    try:
        plan = memory_plan(work.config, work.setting)
    except PlanError as error:
        return None, (str(error),)
    train = cfg["train"]
    strategy, offload = train.get("strategy", "single"), train.get("offload", "none")
    return memory_per_gpu(plan, work.setting, strategy, target.gpus, work.layers, offload), ()


def least_memory(cfg: Mapping[str, Any], work: Work, target: Target) -> float | None:
    """Return the memory of the run with one row at a time and every layer recomputed, which trains the same."""
    smallest = replace(work.setting, checkpoint_every=CHECKPOINT_LEVELS[-1], micro_batch=1)
    plan, _ = memory_of(cfg, replace(work, setting=smallest), target)
    return plan.total if plan else None
