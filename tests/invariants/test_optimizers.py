"""Optimizers with small states, and steps within the backward pass: the same training, and exact to resume."""

import gc
import importlib.util
import json
import weakref
from types import SimpleNamespace

import pytest
import torch
from tiny_training import SETTINGS, break_off, configuration
from transformers import LlamaConfig, LlamaForCausalLM

from snaketune.core.errors import ConfigError
from snaketune.train import optimizers
from snaketune.train.device import prepare_arithmetic
from snaketune.train.packages import versions
from snaketune.train.run import build_trainer, train

EIGHT_BIT = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is an extra")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model whose matrices are large enough for 8-bit states: those under 4,096 values keep float32."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=97, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return folder


def full(**keys):
    cfg = configuration(**{"max_steps": 4, "max_grad_norm": 0.0, "learning_rate": 1e-3, **keys})
    return cfg | {"adapter": {**cfg["adapter"], "type": "none"}}


def trained(base, rows, cfg, work):
    """A training, with its losses and norms of gradients by step, and its weights."""
    trainer = build_trainer(base, *rows, cfg, SETTINGS, work, prepare_arithmetic(1))
    trainer.train()
    lines = [line for line in map(json.loads, (work / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    weights = {name: weight.detach() for name, weight in trainer.model.named_parameters()}
    return trainer, [(line["loss"], line["grad_norm"]) for line in lines], weights


@pytest.mark.parametrize(
    "optim", ["adamw_torch_fused", "adamw_torch", "sgd", pytest.param("adamw_8bit", marks=EIGHT_BIT)]
)
def test_steps_in_the_backward_pass_are_the_ordinary_ones(wide, rows, tmp_path, optim):
    _, expected, weights = trained(wide, rows, full(optim=optim), tmp_path / "ordinary")
    trainer, found, others = trained(wide, rows, full(optim=optim, optimizer_in_backward=True), tmp_path / "backward")
    assert [loss for loss, _ in found] == [loss for loss, _ in expected]
    assert [norm for _, norm in found] == pytest.approx([norm for _, norm in expected], rel=1e-5)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert all(weight.grad is None for weight in trainer.model.parameters())


def test_a_step_of_several_backward_passes_is_refused_wherever_it_comes_from(wide, rows, tmp_path):
    cfg = full(optimizer_in_backward=True, gradient_accumulation_steps=2)
    with pytest.raises(
        ConfigError, match=r"makes every backward pass an optimizer step, but train.gradient_accumulation_steps is 2"
    ):
        trained(wide, rows, cfg, tmp_path)


def test_gradients_are_never_there_together(wide, rows, tmp_path):
    trainer = build_trainer(wide, *rows, full(optimizer_in_backward=True), SETTINGS, tmp_path, prepare_arithmetic(1))
    most = []
    for weight in trainer.model.parameters():
        weight.register_post_accumulate_grad_hook(
            lambda _: most.append(sum(each.grad is not None for each in trainer.model.parameters()))
        )
    trainer.train()
    assert most and max(most) == 1


@pytest.mark.parametrize(
    "keys",
    [
        {"optimizer_in_backward": True},
        pytest.param({"optim": "adamw_8bit"}, marks=EIGHT_BIT),
        pytest.param({"optim": "paged_adamw_8bit", "optimizer_in_backward": True}, marks=EIGHT_BIT),
    ],
    ids=str,
)
def test_an_interrupted_training_ends_with_the_same_bits(wide, rows, tmp_path, keys):
    cfg, settings = full(**keys), {**SETTINGS, "save_steps": 2}
    whole = train(wide, *rows, cfg, settings, tmp_path / "whole")
    break_off(wide, rows, cfg, tmp_path / "parts", at=3, save_steps=2)
    parts = train(wide, *rows, cfg, settings, tmp_path / "parts")
    assert parts.resumed_from == 2
    first, second = ((each.checkpoint / "model.safetensors").read_bytes() for each in (whole, parts))
    assert first == second


@EIGHT_BIT
def test_states_take_a_byte_and_those_of_embeddings_stay_exact(wide, rows, tmp_path):
    _, expected, _ = trained(wide, rows, full(), tmp_path / "exact")
    trainer, found, _ = trained(wide, rows, full(optim="adamw_8bit"), tmp_path / "small")
    names = {weight: name for name, weight in trainer.model.named_parameters()}
    dtypes = {names[weight]: state["state1"].dtype for weight, state in trainer.optimizer.state.items()}
    assert dtypes["model.embed_tokens.weight"] == torch.float32  # of 6,208 values
    assert dtypes["model.layers.0.mlp.up_proj.weight"] == torch.uint8
    assert dtypes["model.layers.0.input_layernorm.weight"] == torch.float32  # of 64
    assert found != expected and found[-1][0] == pytest.approx(expected[-1][0], rel=1e-2)


@EIGHT_BIT
def test_a_finished_training_leaves_no_model_behind_and_no_rule_for_the_next(wide, rows, tmp_path):
    import bitsandbytes

    trainer, _, _ = trained(wide, rows, full(optim="paged_adamw_8bit", max_steps=1), tmp_path)
    manager, model = bitsandbytes.optim.GlobalOptimManager.get_instance(), weakref.ref(trainer.model)
    assert not manager.module_weight_config_triple and not manager.index2config and not manager.pid2config
    del trainer, _
    gc.collect()
    assert model() is None


class OnCard:
    """A weight on a GPU, as far as its optimizer looks."""

    device = torch.device("cuda")

    def __init__(self, size):
        self.numel = lambda: size


@EIGHT_BIT
def test_loaded_states_are_paged_again(monkeypatch):
    def get_paged(*shape, dtype, device):
        buffer = torch.zeros(shape, dtype=dtype)
        buffer.is_paged = True
        return buffer

    monkeypatch.setattr("bitsandbytes.functional.get_paged", get_paged)
    large, small = OnCard(200_000), OnCard(5_000)
    values = torch.arange(200_000, dtype=torch.int64).to(torch.uint8)
    state = {large: {"state1": values, "state2": values + 1, "absmax1": values[:9]}, small: {"state1": values[:5_000]}}
    pages = SimpleNamespace(paged_tensors=[])
    optimizers.page_again(SimpleNamespace(is_paged=True, state=state, page_mng=pages))
    assert all(torch.equal(state[large][name], values + add) for name, add in (("state1", 0), ("state2", 1)))
    assert [getattr(each, "is_paged", False) for each in state[large].values()] == [True, True, False]
    assert len(pages.paged_tensors) == 2 and not hasattr(state[small]["state1"], "is_paged")


@EIGHT_BIT
def test_the_package_of_the_optimizer_is_part_of_what_a_training_is():
    assert "bitsandbytes" in versions(full(optim="adamw_8bit")) and "bitsandbytes" not in versions(full())
