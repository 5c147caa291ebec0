"""Processes that train together: what is said when one of them does not come."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from snaketune.core.environment import WORKER
from snaketune.core.errors import ConfigError, TrainingError
from snaketune.train.device import prepare_arithmetic
from snaketune.train.distributed.attendance import Attendance
from snaketune.train.distributed.process_group import PATIENCE, ProcessGroup
from snaketune.train.distributed.strategy import processes_wanted, run_workers, strategy_arguments

ABSENT = [
    ("[Rank 0]: Ranks 1, 3 failed to pass monitoredBarrier in 1800000 ms", "for process 1, 3:"),
    ("Rank 2 failed to pass monitoredBarrier in 1800000 ms", "for process 2:"),
    ("Connection closed by peer [10.0.0.2]:4321", r"for another process \(Connection closed by peer"),
]


@pytest.mark.parametrize(("said", "words"), ABSENT)
def test_a_process_that_does_not_come_is_named(monkeypatch, said, words):
    def absent(*arguments, **options):
        raise RuntimeError(said)

    monkeypatch.setattr(dist, "new_group", lambda **options: object())
    for name in ("monitored_barrier", "all_reduce"):
        monkeypatch.setattr(dist, name, absent)
    process_group = ProcessGroup(0, 4)
    for meet in (process_group.barrier, lambda: process_group.any(True)):
        with pytest.raises(
            TrainingError,
            match=rf"process 0 of 4 timed out waiting {words}.*run the same command to resume from the last",
        ):
            meet()


def test_a_process_alone_waits_for_nobody():
    ProcessGroup().barrier()


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def seen(counts, seconds, patience=60.0):
    """What each process says when it has noted so many batches and has then waited so long."""
    store, clock, said = {}, Clock(), {}
    shared = type("Store", (), {"set": staticmethod(store.__setitem__), "get": staticmethod(store.__getitem__)})
    process_group = [
        Attendance(shared, rank, len(counts), patience, lambda words, rank=rank: said.update({rank: words}), clock)
        for rank in range(len(counts))
    ]
    for member, count in zip(process_group, counts, strict=True):
        for _ in range(count):
            member.note()
        member._publish()
    clock.now = seconds
    for member in process_group:
        member.check()
    return said


def test_the_first_of_those_that_wait_names_those_that_are_behind():
    assert seen([7, 7, 7], 59) == {}
    assert list(seen([7, 5, 7], 120)) == [0]
    assert "process 0 of 3 waited for 2.0 minutes for process 1, which did not reach" in seen([7, 5, 7], 120)[0]
    said = seen([3, 7, 3, 7], 120)
    assert list(said) == [1] and "for processes 0, 2, which" in said[1]


def test_a_connection_that_fails_is_no_process_that_is_missing():
    assert "connection between the GPUs or nodes has failed (NCCL_DEBUG=INFO" in seen([7, 7], 120)[0]


def test_a_late_process_ends_without_a_word_when_nobody_was_left_to_say_it():
    said = seen([7, 5], 121)
    assert said[1] == "" and said[0]


def test_the_process_group_knows_its_own_card(monkeypatch):
    made = {}
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **told: made.update(told, backend=backend))
    for name, value in ((WORKER, "1"), ("LOCAL_RANK", "3")):
        monkeypatch.setenv(name, value)
    ProcessGroup(3, 4).meet("cuda")
    assert made == {"backend": "cuda:nccl,cpu:gloo", "timeout": PATIENCE, "device_id": torch.device("cuda", 3)}
    made.clear()
    ProcessGroup(3, 4).meet("cpu")
    assert made == {"backend": "gloo", "timeout": PATIENCE}
    made.clear()
    ProcessGroup().meet("cuda")
    assert not made


@pytest.mark.parametrize("card", ["two"], indirect=True)
@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3"])
def test_each_strategy_starts_a_process_for_each_card(card, strategy, monkeypatch):
    started = {}

    class Process:
        pid = 1

        def __init__(self, command, env):
            started.update(command=command, env=env)

        def wait(self):
            return 0

    monkeypatch.setattr("snaketune.train.packages.importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr(subprocess, "Popen", Process)
    cfg = {"train": {"strategy": strategy}, "plan": {"num_gpus": 2}}
    assert processes_wanted(cfg) == (1 if strategy == "single" else 2)
    with pytest.raises(ConfigError, match=r"plan\.num_gpus: 4 and this machine has 2: use 2 or less"):
        processes_wanted({"train": {"strategy": "ddp"}, "plan": {"num_gpus": 4}})
    run_workers(2, ["train_model.py", "--spec", "x"])
    shell, flag, script, python, *rest = started["command"]
    assert (shell, flag, python) == ("bash", "-c", sys.executable)
    assert script.endswith('exec "$0" -m torch.distributed.run "$@"')
    assert rest == [
        "--standalone",
        "--signals-to-handle=SIGTERM",
        "--nproc-per-node=2",
        "--log-dir=/dev/null",
        "train_model.py",
        "--spec",
        "x",
    ]
    assert started["env"][WORKER] == "1" and started["env"]["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("card", ["two"], indirect=True)
def test_a_worker_sets_its_own_card_before_it_asks_for_anything(card, monkeypatch):
    called = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: called.append(number))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: called.append("asked") or (8, 9))
    for name, value in ((WORKER, "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    prepare_arithmetic(1)
    assert called[:2] == [1, "asked"]


def test_sharded_gradients_are_scattered_with_every_micro_batch():
    told = strategy_arguments("fsdp", full=True)["accelerator_config"]
    assert told == {"gradient_accumulation_kwargs": {"sync_each_batch": True}}
