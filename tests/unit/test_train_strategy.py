"""Which strategies go with what, and what DeepSpeed is told."""

from pathlib import Path

import pytest

from snaketune.config.consistency import check_run
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.train import packages
from snaketune.train.distributed.strategy import processes_wanted
from snaketune.train.distributed.zero import zero_settings

FILE = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}}
TWO = {"plan": {"num_gpus": 2}}


def run(**sections):
    return resolve_runs(Layer("c", FILE), sections, "nowhere")[0]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (TWO, r"strategy is single and plan.num_gpus is 2: set the strategy to ddp or fsdp, or plan.num_gpus to 1"),
        ({"train": {"strategy": "ddp", "method": "dpo"}, **TWO}, r"method is dpo, which supports one GPU only, .*set"),
        (
            {"train": {"strategy": "fsdp"}, "model": {"quantization": "4bit"}, **TWO},
            r"strategy is fsdp and model.quantization is 4bit, .* or train.strategy to ddp",
        ),
        (
            {"train": {"strategy": "fsdp", "offload": "cpu"}, **TWO},
            r"offload is cpu and train.strategy is fsdp, .* set train.offload to none, or train.strategy to deepspeed",
        ),
        (
            {"train": {"strategy": "deepspeed_zero2", "offload": "nvme"}, **TWO},
            r"offload is nvme and train.strategy is deepspeed_zero2, .* set train.offload to cpu, or",
        ),
        (
            {"train": {"strategy": "fsdp", "activation_offloading": True}, **TWO},
            r"strategy is fsdp and train.activation_offloading is true, .* or train.strategy to ddp",
        ),
        ({"plan": {"num_gpus": 3, "num_nodes": 2}}, r"plan.num_gpus is 3 and plan.num_nodes is 2, .* num_gpus to 2"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(sections, words):
    with pytest.raises(ConfigError, match=words):
        check_run(run(**sections))


@pytest.mark.parametrize("train", [{"strategy": "deepspeed_zero3", "offload": "nvme"}, {"strategy": "deepspeed_zero2"}])
def test_what_goes_together_passes(train):
    check_run(run(train=train, **TWO))
    check_run(run(train={"strategy": "deepspeed_zero2"}, model={"quantization": "8bit"}, **TWO))


def test_weights_are_offloaded_by_stage_3_alone(tmp_path):
    told = zero_settings(2, "cpu", tmp_path, pins=True)["zero_optimization"]
    assert told["offload_optimizer"] == {"device": "cpu", "pin_memory": True} and "offload_param" not in told
    told = zero_settings(3, "nvme", tmp_path, pins=False)["zero_optimization"]
    place = {"device": "nvme", "pin_memory": False, "nvme_path": str(tmp_path)}
    assert told["offload_optimizer"] == told["offload_param"] == place
    assert "offload_optimizer" not in zero_settings(3, "none", tmp_path, pins=True)["zero_optimization"]


@pytest.mark.parametrize("name", ["deepspeed_zero2", "deepspeed_zero3"])
def test_a_strategy_whose_package_is_absent_is_refused_with_its_command(name, monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    command = r"pip install -r envs/extras/deepspeed\.txt -c constraints\.txt"
    with pytest.raises(ConfigError, match=f"train.strategy: {name} needs DeepSpeed, .*{command}"):
        processes_wanted({"train": {"strategy": name}, "plan": {"num_gpus": 2}})
    assert (Path(__file__).parents[2] / "envs" / "extras" / "deepspeed.txt").is_file()
