"""Kernels of liger-kernel are taken where they are installed, meant for the model and equal on it."""

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from test_training_steps import METHODS, method, prepared
from transformers.models.llama.modeling_llama import LlamaAttention

from snaketune.core.errors import ConfigError
from snaketune.train import engine as engine_module
from snaketune.train.packages import versions

CARD = pytest.mark.parametrize("card", ["4090"], indirect=True)
# Two layers of two norms, a gate and an attention, and the last norm.
LAYERS = 2 * 4 + 1


class Counted:
    """A function with liger's way of being called, its signature and formula, and a count of calls."""

    def __init__(self, formula):
        self.formula, self.calls = formula, 0

    def apply(self, *arguments):
        self.calls += 1
        return self.formula(*arguments)


def norm(states, weight, epsilon, offset, casting, in_place):
    assert (offset, casting, in_place) == (0.0, "llama", False)
    wide = states.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(states.dtype)


def gate(one, other):
    return torch.nn.functional.silu(one) * other


def rotate(q, k, cos, sin, positions, axis):
    cos, sin = cos.unsqueeze(axis), sin.unsqueeze(axis)
    turned = [torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), -1) for x in (q, k)]
    return q * cos + turned[0] * sin, k * cos + turned[1] * sin


@pytest.fixture
def liger(monkeypatch):
    """The package, installed."""
    package, ops = ModuleType("liger_kernel"), ModuleType("liger_kernel.ops")
    ops.LigerRMSNormFunction, ops.LigerSiLUMulFunction = Counted(norm), Counted(gate)
    ops.LigerRopeFunction = Counted(rotate)
    for module in (package, ops):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: name == "liger_kernel" or find(name, *rest))
    return ops


@CARD
@pytest.mark.parametrize("name", ["lora", "full", "float32 base", "recomputed"])
def test_known_layers_compute_with_the_kernels(card, base, rows, tmp_path, liger, name):
    run = prepared(base, rows, METHODS[name], tmp_path)
    assert run.engine.liger_layers == LAYERS and run.engine.facts()["liger_layers"] == LAYERS
    before = liger.LigerRopeFunction.calls
    run.trainer.train()
    assert liger.LigerRopeFunction.calls > before and liger.LigerSiLUMulFunction.calls
    # The sum of float32 weights and bfloat16 states is not what the kernel gives.
    assert liger.LigerRMSNormFunction.calls or name == "float32 base"
    rotary = LlamaAttention.forward.__globals__["apply_rotary_pos_emb"]
    assert rotary.__module__.startswith("transformers"), "nothing is replaced for the whole process"


@CARD
@pytest.mark.parametrize(
    ("kernel", "wrong"),
    [
        ("LigerRMSNormFunction", lambda states, weight, epsilon, *rest: norm(states, weight, 0.1, *rest)),
        ("LigerSiLUMulFunction", lambda one, other: gate(one, other.detach())),
        ("LigerRopeFunction", lambda q, k, *rest: (q, k)),
    ],
)
def test_a_kernel_that_is_not_equal_on_this_model_is_taken_out(
    card, base, rows, tmp_path, liger, kernel, wrong, capsys
):
    getattr(liger, kernel).formula = wrong
    run = prepared(base, rows, METHODS["lora"], tmp_path)
    assert run.engine.liger_layers == 0
    assert "liger kernels are not used, because" in capsys.readouterr().out
    assert not any("forward" in module.__dict__ for module in run.trainer.model.modules() if _is_swapped(module))
    with pytest.raises(
        ConfigError, match=r"use_liger_kernel: true is not possible on this machine \(.* differ by .*auto"
    ):
        prepared(base, rows, method(use_liger_kernel=True), tmp_path)


def _is_swapped(module):
    return type(module).__name__ in ("LlamaRMSNorm", "LlamaMLP", "LlamaAttention")


@CARD
def test_compiled_layers_and_a_wish_for_none_stay_as_they_are(card, base, rows, tmp_path, liger, monkeypatch):
    assert prepared(base, rows, method(use_liger_kernel=False), tmp_path).engine.liger_layers == 0
    monkeypatch.setattr(engine_module, "compile_layers", lambda model: 2)
    compiled = method() | {"train": METHODS["lora"]["train"] | {"torch_compile": True}}
    assert prepared(base, rows, compiled, tmp_path).engine.liger_layers == 0
    assert liger.LigerRopeFunction.calls == 0


@CARD
def test_without_the_package_it_is_a_sentence_or_nothing(card, base, rows, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: find(name) if name != "liger_kernel" else None)
    assert prepared(base, rows, METHODS["lora"], tmp_path).engine.liger_layers == 0
    assert "liger" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"not installed: pip install -r envs/extras/liger.txt"):
        prepared(base, rows, method(use_liger_kernel=True), tmp_path)


def test_the_package_is_part_of_what_a_training_is(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: True)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1")
    assert "liger_kernel" in versions(method()) and "liger_kernel" not in versions(method(use_liger_kernel=False))
