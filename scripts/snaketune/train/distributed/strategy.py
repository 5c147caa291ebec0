"""Training strategies with several processes: data parallel (DDP), fully sharded (FSDP2) and DeepSpeed's ZeRO."""

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
from snaketune.settings.training_slices import TrainingSlice
from snaketune.storage.disks import Disks, temporary_place
from snaketune.train.device import Device
from snaketune.train.distributed.nodes import Nodes
from snaketune.train.distributed.requeue import OutOfTime
from snaketune.train.distributed.zero import ZERO_STAGES, zero_settings
from snaketune.train.packages import require_deepspeed

ONE_NODE = Nodes()
LAUNCHER_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


def processes_wanted(cfg: TrainingSlice, nodes: int = 1) -> int:
    """Return how many processes a training takes: one per GPU, or ``plan.num_gpus`` of them on a CPU.

    Args:
        cfg: the configuration slice of training.
        nodes: machines, each with an equal share of them.

    Raises:
        ConfigError: if there are fewer GPUs, or a package is not installed.
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
    """Run ``command`` (a Python script and its arguments) in ``count`` processes that form a group.

    Signals to stop are passed on, so that the processes save before they end.

    Args:
        count: number of processes.
        command: what each of them runs.
        nodes: the machines; each runs an equal share of the processes.

    Raises:
        OutOfTime: if they ended because of SIGUSR1.
        TrainingError: if one of them failed; its own message is already in the log.
    """
    # One thread each unless the user says otherwise: as many threads per process as cores would compete for them.
    environment = {"OMP_NUM_THREADS": "1", **os.environ, WORKER: "1"}
    process = subprocess.Popen([*nodes.launcher(count), *command], env=environment)
    came: list[int] = []

    def tell_to_end(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT in came:
            process.kill()  # the second Ctrl-C does not wait for the checkpoint; workers end with their launcher
        came.append(number)
        # Directly to the workers: torch's launcher would kill them after 30 seconds. srun forwards it to all of them.
        workers = psutil.Process(process.pid).children() if nodes.count == 1 else []
        for each in workers or [process]:
            each.terminate()

    # Signals that the parent ignores, as under nohup, stay ignored.
    listened = [number for number in LAUNCHER_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
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
    """Prepare the configured strategy on this device and return its arguments of ``TrainingArguments``.

    Args:
        cfg: the ``train``, ``adapter`` and ``model`` sections.
        device: where this process computes.
        work: private folder of the run.
        scratch: ``paths.scratch``, the folder of offloaded state.
    """
    strategy = cfg["train"]["strategy"]
    if strategy == "fsdp":
        os.environ["ACCELERATE_USE_FSDP"] = "true"  # set by `accelerate launch`; accelerate and PEFT read it
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
    """Raise ConfigError if DeepSpeed's asynchronous file I/O cannot be built here."""
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
        # With full training every process saves its shard; an adapter is small and is gathered.
        return {
            "fsdp": True,
            "fsdp_config": {
                "version": 2,
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "state_dict_type": "SHARDED_STATE_DICT" if full else "FULL_STATE_DICT",
                "reshard_after_forward": True,
                # Only the first process has read the weights, and distributes the shards; see loading.load_base.
                "cpu_ram_efficient_loading": True,
            },
            # Otherwise every GPU would accumulate unsharded gradients of all weights until a step's last micro-batch.
            "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
        }
    # Every parameter of an adapter gets a gradient in every step; searching for unused ones traverses the graph.
    return {"ddp_find_unused_parameters": False} if strategy == "ddp" else {}


def allow_sharding_on_cpu() -> None:
    """Let accelerate shard over CPU processes, which it supports on GPUs only: for experiments and tests.

    The sharding itself (FSDP2, here over gloo) is torch's and the same on both.
    """
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    if getattr(AcceleratorState, "_shards_on_cpu", False):
        return
    # accelerate refuses FSDP on a CPU before it reads the plugin, so the kind is set after its own initialisation.
    prepare = AcceleratorState.__init__

    def prepare_and_shard(self: Any, *args: Any, **kwargs: Any) -> None:
        prepare(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = prepare_and_shard
    AcceleratorState._shards_on_cpu = True
