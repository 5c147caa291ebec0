"""The last decoder layer at the positions that carry loss: its other outputs are read by no later position.

Keys and values are needed at every position, so attention runs in full. What follows it in the layer, and the norm
behind the layer, work on each position alone.
"""

import functools
from typing import Any

import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from snaketune.train.kernels.recognition import computes_as

# Classes of transformers that compute nothing after their last layer but a norm of each position.
BODIES = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")


def trim_last_layer(model: torch.nn.Module) -> None:
    """Let the last layer take ``loss_places``, if it is one in float32 of a known architecture.

    Given flat positions (int64, shape [n]) the model returns hidden states of shape [1, n, width]. All layers get the
    argument from the model; the others pass it on to attention, which ignores it.
    """
    for body in model.modules():
        if type(body).__name__ in BODIES and type(body).__module__.startswith("transformers.models."):
            layer = _last_of(body)
            if computes_as(layer, LlamaDecoderLayer) and next(layer.parameters()).dtype == torch.float32:
                layer.forward = functools.partial(_trimmed, layer)


def _last_of(body: Any) -> Any:
    return body.layers[: body.config.num_hidden_layers][-1]


def is_trimmed(model: torch.nn.Module) -> bool:
    """Tell whether :func:`trim_last_layer` has changed the model."""
    return any(getattr(module.__dict__.get("forward"), "func", None) is _trimmed for module in model.modules())


def _trimmed(layer: Any, hidden_states: torch.Tensor, loss_places: torch.Tensor | None = None, **kwargs: Any) -> Any:
    if loss_places is None:
        return type(layer).forward(layer, hidden_states, **kwargs)
    attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
    residual, attended = (each.flatten(0, 1).index_select(0, loss_places)[None] for each in (hidden_states, attended))
    states = residual + attended
    return states + layer.mlp(layer.post_attention_layernorm(states))
