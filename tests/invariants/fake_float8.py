"""A torchao that marks the layers that it is asked to convert."""

import sys
from types import ModuleType

import torch


class Float8(torch.nn.Linear):
    """A layer that was converted."""


class Float8LinearConfig:
    """A recipe, by its name."""

    def __init__(self, name):
        self.name = name

    from_recipe_name = classmethod(lambda cls, name: cls(name))


def convert_to_float8_training(model, module_filter_fn, config):
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module_filter_fn(module, name):
            module.__class__, module.recipe = Float8, config.name


def put_in_fake_torchao(monkeypatch):
    fake = ModuleType("torchao.float8")
    fake.Float8LinearConfig = Float8LinearConfig
    fake.convert_to_float8_training = convert_to_float8_training
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.float8", fake)
