"""What optimizers do not go together with is one sentence before anything is computed."""

import pytest

from snaketune.config.consistency import check_run
from snaketune.config.resolve import Layer, resolve_runs
from snaketune.core.errors import ConfigError
from snaketune.train import packages

FILE = {"data": {"sources": ["a.jsonl"]}, "model": {"name_or_path": "tiny"}}
IN_BACKWARD = {"optimizer_in_backward": True, "gradient_accumulation_steps": 1, "max_grad_norm": 0}


def checked(num_gpus=1, **train):
    check_run(resolve_runs(Layer("c", FILE), {"train": train, "plan": {"num_gpus": num_gpus}}, "nowhere")[0])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"gradient_accumulation_steps": 4},
            r"gradient_accumulation_steps is 4, but every backward pass is an optimizer step: .*1",
        ),
        (
            {"max_grad_norm": 1.0},
            r"max_grad_norm is 1, but the norm over all gradients .*: set train.max_grad_norm to 0",
        ),
        (
            {"fp16": True},
            r"fp16 is true, but scaled gradients have to be checked before the step: set train.fp16 to false",
        ),
        ({"strategy": "ddp", "num_gpus": 2}, r"strategy is ddp, but gradients of several GPUs .*: .* to single"),
    ],
)
def test_steps_in_the_backward_pass_come_before_what_needs_all_gradients(keys, words):
    checked(**IN_BACKWARD)
    with pytest.raises(ConfigError, match=rf"train.optimizer_in_backward is true and train\.{words}"):
        checked(**IN_BACKWARD | keys)


@pytest.mark.parametrize("optim", packages.OPTIMIZERS)
def test_states_of_other_packages_are_not_shared_out(optim, monkeypatch):
    checked(2, strategy="ddp", optim=optim)
    for strategy in ("fsdp", "deepspeed_zero2", "deepspeed_zero3"):
        with pytest.raises(ConfigError, match=f"train.optim is {optim} and train.strategy is {strategy}, which shards"):
            checked(2, strategy=strategy, optim=optim)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"train.optim: {optim} needs the package .* envs/extras/\w+\.txt .*fused"):
        packages.versions({"model": {}, "train": {"optim": optim}})
