"""Several processes for one training: data parallel (DDP), fully sharded (FSDP2) and DeepSpeed's ZeRO."""

import atexit
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch

from snaketune.core.environment import WORKER
from snaketune.core.errors import ConfigError, TrainingError
from snaketune.settings.training import TrainingSlice
from snaketune.storage.disks import Disks, temporary_place
from snaketune.train.device import Device
from snaketune.train.distributed.nodes import Nodes
from snaketune.train.distributed.requeue import OutOfTime
from snaketune.train.distributed.zero import STAGES as ZERO_STAGES
from snaketune.train.distributed.zero import zero_settings
from snaketune.train.packages import require_deepspeed

ONE_NODE = Nodes()
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


def processes_wanted(cfg: TrainingSlice, nodes: int = 1) -> int:
    """Return how many processes a training takes: one per GPU, or ``plan.num_gpus`` of them on a CPU.

    Args:
        cfg: the configuration slice of training.
        nodes: machines that share them evenly.

    Raises:
        ConfigError: if so many GPUs, or a package, are not there.
    """
    strategy = cfg["train"]["strategy"]
    if strategy == "single":
        return 1
    require_deepspeed(strategy)
    wanted, available = cfg["plan"]["num_gpus"], torch.cuda.device_count()
    if 0 < available < wanted // nodes:
        over = f" over {nodes} nodes" if nodes > 1 else ""
        most = available * nodes
        raise ConfigError(f"plan.num_gpus: {wanted}{over} and this machine has {available}: use {most} or less.")
    return wanted


def run_workers(count: int, command: Sequence[str], nodes: Nodes = ONE_NODE) -> None:
    """Run ``command`` (a Python script and its arguments) in ``count`` processes that find each other.

    A signal to stop is passed on, so that they save before they end.

    Args:
        count: number of processes.
        command: what each of them runs.
        nodes: where, an equal share of them on each.

    Raises:
        OutOfTime: if they ended because SIGUSR1 came.
        TrainingError: if one of them failed; its own sentence is already in the log.
    """
    environment = {"OMP_NUM_THREADS": "1", **os.environ, WORKER: "1"}
    process = subprocess.Popen([*nodes.launcher(count), *command], env=environment)
    came: list[int] = []

    def tell_to_end(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT in came:
            process.kill()  # the second Ctrl-C does not wait for the checkpoint; workers end with their launcher
        came.append(number)
        # torch's launcher would give them 30 seconds; srun hands the signal to all of them.
        workers = psutil.Process(process.pid).children() if nodes.count == 1 else []
        for each in workers or [process]:
            each.terminate()

    listened = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, tell_to_end) for number in listened}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status:
        kind = OutOfTime if came[:1] == [signal.SIGUSR1] else TrainingError
        raise kind(
            f"the {count} training processes did not finish (status {status}): their error is shown above; run the "
            "same command to resume from the last checkpoint."
        )


def require_strategy(cfg: TrainingSlice, device: Device, work: Path, scratch: str | None = None) -> dict[str, Any]:
    """Make the configured strategy possible on this device and return its arguments of ``TrainingArguments``.

    Args:
        cfg: the ``train``, ``adapter`` and ``model`` sections.
        device: where this process computes.
        work: private folder of the run.
        scratch: ``paths.scratch``, where files of what is offloaded go.
    """
    strategy = cfg["train"]["strategy"]
    if strategy == "fsdp":
        os.environ["ACCELERATE_USE_FSDP"] = "true"  # as `accelerate launch` says it to accelerate and to PEFT
        if device.is_cpu:
            allow_sharding_on_cpu()
    if strategy in ZERO_STAGES:
        return {"deepspeed": _zero(cfg, device, work, scratch)}
    return strategy_arguments(strategy, full=cfg["adapter"]["type"] == "none")


def _zero(cfg: TrainingSlice, device: Device, work: Path, scratch: str | None) -> dict[str, Any]:
    stage, offload = ZERO_STAGES[cfg["train"]["strategy"]], cfg["train"]["offload"]
    if offload != "nvme":
        return zero_settings(stage, offload, work, pins=not device.is_cpu)
    require_file_offload()
    files = temporary_place(scratch, work, "offloaded", Disks())
    atexit.register(shutil.rmtree, files, ignore_errors=True)
    return zero_settings(stage, offload, files, pins=not device.is_cpu)


def require_file_offload() -> None:
    """Raise ConfigError where DeepSpeed cannot read and write files beside the computation."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise ConfigError(
            "train.offload: nvme needs a C++ compiler and the headers of libaio (Debian: apt install g++ libaio-dev),"
            " which are not installed: install them, or set train.offload to cpu."
        )


def strategy_arguments(strategy: str, full: bool) -> dict[str, Any]:
    """Return the arguments of ``TrainingArguments`` for a strategy.

    Args:
        strategy: ``train.strategy``.
        full: whether all weights are trained and not an adapter.
    """
    if strategy == "fsdp":
        # Every process saves its share of a whole model; an adapter is small, and gathered.
        return {
            "fsdp": True,
            "fsdp_config": {
                "version": 2,
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "state_dict_type": "SHARDED_STATE_DICT" if full else "FULL_STATE_DICT",
                "reshard_after_forward": True,
                # The first process alone has read the weights and hands out the shares; see loading.load_base.
                "cpu_ram_efficient_loading": True,
            },
            # Else whole gradients of all weights would wait on each GPU for the last micro-batch of a step.
            "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
        }
    # Every parameter of an adapter gets a gradient in every step; looking for unused ones costs a walk of the graph.
    return {"ddp_find_unused_parameters": False} if strategy == "ddp" else {}


def allow_sharding_on_cpu() -> None:
    """Let accelerate shard over CPU processes, which it does over GPUs alone: for trying things and for tests.

    The sharding itself (FSDP2 over gloo) is torch's and the same on both.
    """
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    if getattr(AcceleratorState, "_shards_on_cpu", False):
        return
    prepare = AcceleratorState.__init__

    def prepare_and_shard(self: Any, *args: Any, **kwargs: Any) -> None:
        prepare(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = prepare_and_shard
    AcceleratorState._shards_on_cpu = True
