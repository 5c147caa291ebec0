"""A small model of the same kind, for checks of an architecture whose weights no single process can compute with."""

import copy
from typing import Any

import torch
from transformers import PreTrainedModel

from snaketune.train.device import Device

# Enough to hold every kind of layer of the models that mix them.
LAYERS = 8


def likeness_of(model: Any, device: Device) -> PreTrainedModel:
    """Return a model with the first layers' architecture, the kernel and the number format of ``model``.

    Its weights are random; the same seed and the same sequence of random numbers go on afterwards.

    Args:
        model: the model, under an adapter or not; its weights may be absent.
        device: where the new one goes.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = copy.deepcopy(base.config)
    text = config.get_text_config()
    text.num_hidden_layers = min(LAYERS, text.num_hidden_layers)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    devices = [] if device.is_cpu else [torch.cuda.current_device()]
    with torch.random.fork_rng(devices), torch.device(device.type):
        # The class itself, so that nothing is asked about code that came with the model and runs already.
        small = type(base)._from_config(config, dtype=base.dtype, attn_implementation=config._attn_implementation)
    return small.eval()
