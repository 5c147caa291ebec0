"""Two hosts compute what one process computes on the same rows, and go on where they were stopped."""

import os
from pathlib import Path
from unittest import mock

import pytest
from peft import PeftModel
from safetensors.torch import load_file
from several_processes import train_together
from tiny_training import SETTINGS, Documents, configuration, lines, packed
from transformers import AutoModelForCausalLM
from two_hosts import remove_hosts, set_up_hosts, slurm_job

from snaketune.core.errors import TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.train.checkpoints.checkpoints import newest_intact
from snaketune.train.checkpoints.weight_publishing import publish_weights
from snaketune.train.distributed.nodes import find_nodes
from snaketune.train.run import train

pytestmark = pytest.mark.slow
STEPS = 50


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """The nodes of a Slurm job on two hosts, and its environment."""
    if reason := set_up_hosts():
        pytest.skip(f"two hosts cannot be made: {reason}.")
    with mock.patch.dict(os.environ, slurm_job(tmp_path_factory.mktemp("commands") / "bin")):
        yield find_nodes(2)
    remove_hosts()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    packed(folder / "train.arrow", Documents(63))
    packed(folder / "eval.arrow", Documents(9, seed=5))
    return folder


def case(strategy, batch):
    cfg = configuration(max_steps=STEPS, eval_steps=25, per_device_train_batch_size=batch, learning_rate=1e-3)
    cfg["train"]["strategy"] = strategy
    return cfg


@pytest.fixture(scope="module")
def alone(base, folder, tmp_path_factory):
    work = tmp_path_factory.mktemp("alone")
    rows = (PackedRows(folder / name) for name in ("train.arrow", "eval.arrow"))
    train(base, *rows, case("single", 2), SETTINGS, work)
    return work


def adapter(work):
    return load_file(newest_intact(work, work.name) / "adapter_model.safetensors")


@pytest.mark.parametrize(("strategy", "stop_after"), [("ddp", 20), ("fsdp", None)])
def test_two_hosts_of_one_row_are_one_process_of_two_also_when_stopped(
    strategy, stop_after, hosts, alone, base, folder, tmp_path
):
    cfg = case(strategy, 1)
    if stop_after:
        with pytest.raises(TrainingError, match="run the same command to resume from the last checkpoint"):
            train_together(cfg, base, folder, tmp_path, stop_after=stop_after, nodes=hosts)
        assert newest_intact(tmp_path, tmp_path.name).name == f"checkpoint-{stop_after}"
    train_together(cfg, base, folder, tmp_path, nodes=hosts)
    found, expected = lines(tmp_path), lines(alone)
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for name in ("loss", "eval_loss"):
        losses, wanted = ([line[name] for line in some if name in line] for some in (found, expected))
        assert losses == pytest.approx(wanted, rel=1e-5), name
    weights, wanted = adapter(tmp_path), adapter(alone)
    assert weights.keys() == wanted.keys()
    assert max(float((weights[key] - wanted[key]).abs().max()) for key in wanted) < 1e-5
    publish_weights(newest_intact(tmp_path, tmp_path.name), tmp_path / "adapter", base, "base", None)
    assert PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")


def test_every_node_gets_one_launcher_with_all_that_the_job_has_there(hosts):
    options = set(Path(os.environ["SRUN_OPTIONS"]).read_text().split())
    assert {"--overlap", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=3"} <= options
