"""Where the processes of a training run, and who puts a job of Slurm back into the queue."""

import os

import pytest

from snaketune.core.errors import ConfigError, TrainingError
from snaketune.train.distributed.nodes import Nodes, find_nodes
from snaketune.train.distributed.requeue import OutOfTime, requeued_when_out_of_time

JOB = {"SLURM_JOB_ID": "31000", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "6"}


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Make an scontrol that writes down its arguments and does what a line of shell says."""

    def make(line: str):
        path = tmp_path / "bin" / "scontrol"
        path.parent.mkdir()
        path.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n{line}\n')
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "asked"

    return make


def test_one_node_asks_nobody():
    assert find_nodes(1, {}) == Nodes()
    assert "--standalone" in Nodes().launcher(4)
    assert "--nproc-per-node=4" in Nodes().launcher(4)


def test_several_nodes_meet_at_the_first_in_slurms_order(scontrol):
    asked = scontrol("printf 'n1\\nn2\\n'")
    nodes = find_nodes(2, JOB)
    assert asked.read_text() == "show hostnames n[1-2]\n"
    assert nodes == Nodes(2, "n1", 16000, "6")
    command = nodes.launcher(8)
    assert command[0] == "srun"
    assert {"--nodes=2", "--nnodes=2", "--nproc-per-node=4", "--master-addr=n1", "--master-port=16000"} < set(command)


@pytest.mark.parametrize(
    ("environment", "line", "error", "words"),
    [
        ({}, "", ConfigError, "not a Slurm job"),
        (JOB, "echo n1", ConfigError, r"plan.num_nodes: 2 and the Slurm job 31000 has 1"),
        (JOB, "echo no such node >&2; exit 1", TrainingError, "no such node"),
    ],
)
def test_what_is_missing_is_one_sentence(scontrol, environment, line, error, words):
    scontrol(line)
    with pytest.raises(error, match=words):
        find_nodes(2, environment)


def out_of_time(work, step):
    with requeued_when_out_of_time(work, JOB):
        if step:
            (work / f"checkpoint-{step}").mkdir()
        raise OutOfTime("SIGUSR1 received.")


def test_a_job_out_of_time_is_requeued_when_it_saved_something(scontrol, tmp_path):
    asked = scontrol("")
    with pytest.raises(TrainingError, match="Slurm has requeued job 31000"):
        out_of_time(tmp_path, 7)
    assert asked.read_text() == "requeue 31000\n"


def test_a_job_that_gets_nowhere_is_not_requeued_for_ever(scontrol, tmp_path):
    asked = scontrol("")
    (tmp_path / "checkpoint-7").mkdir()
    with pytest.raises(OutOfTime):
        out_of_time(tmp_path, None)
    assert not asked.exists()


def test_another_failure_is_not_requeued(scontrol, tmp_path):
    asked = scontrol("")
    with pytest.raises(TrainingError, match="loss"), requeued_when_out_of_time(tmp_path, JOB):
        (tmp_path / "checkpoint-7").mkdir()
        raise TrainingError("the loss diverges")
    assert not asked.exists()


def test_a_cluster_that_takes_nothing_back_is_named(scontrol, tmp_path):
    scontrol("echo Requested operation is presently disabled >&2; exit 1")
    with pytest.raises(TrainingError, match=r"did not requeue job 31000 \(Requested operation"):
        out_of_time(tmp_path, 7)


def test_without_slurm_the_sentence_stays_as_it_is(tmp_path):
    with pytest.raises(OutOfTime, match="received"), requeued_when_out_of_time(tmp_path, {}):
        raise OutOfTime("SIGUSR1 received.")
