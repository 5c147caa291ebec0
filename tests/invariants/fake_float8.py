"""A torchao that marks the layers that it is asked to convert."""

import sys
from types import ModuleType

import torch


class Float8(torch.nn.Linear):
    """A layer that was converted."""


def convert_to_float8_training(model, module_filter_fn):
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module_filter_fn(module, name):
            module.__class__ = Float8


def put_in_fake_torchao(monkeypatch):
    fake = ModuleType("torchao.float8")
    fake.convert_to_float8_training = convert_to_float8_training
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.float8", fake)
