"""Floating-point operations of training, known before the run from counts and document lengths.

A multiplication and an addition are two operations. A matrix of N entries costs 2N per token forward and, backward,
2N for the gradient of its input and 2N for its own gradient; frozen matrices need no gradient of their own, so that
a LoRA run costs 4N plus 6 per adapter parameter. Attention of one document of n tokens over width h costs 2·n²·h
forward when the upper triangle is skipped (n²/2 pairs, two products of 2h each) and twice that backward: 6·n²·h per
layer. The conventions are those of torchtitan (models/utils.py, causal half) and of NVIDIA's Megatron-Bridge
(training/utils/flop_utils.py, sums of squared document lengths; frozen weights at two thirds).
"""

from dataclasses import dataclass
from typing import Any

from snaketune.plan.cache import remembered
from snaketune.plan.memory.counting import count_parameters
from snaketune.plan.memory.unknown import unknown_instead

SLIDING = ("sliding_attention", "chunked_attention")
PAIRWISE = ("full_attention", *SLIDING, "attention", "hybrid")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model decides its operations per token."""

    linear_parameters: int
    """Matrix entries one token is multiplied with: layers, active experts and head, without the input embedding."""
    head_parameters: int
    """Those of them in the output head."""
    layers: int
    attention_width: float
    """Attention heads times head size; the mean of both where queries and values differ in size."""
    windowed_layers: int = 0
    """Layers that look back over at most ``window`` tokens."""
    window: int = 0
    recurrent_layers: int = 0
    """Layers without pairwise attention (linear attention, state spaces): only their matrices are counted."""


@remembered
def shape_of(config: Any) -> ModelShape:
    """Return the shape of the model that a ``PreTrainedConfig`` describes.

    Raises:
        PlanError: if the model cannot be built or counted (see ``count_parameters``).
    """
    counts, text = count_parameters(config), config.get_text_config()
    with unknown_instead(config, "work"):
        layers, heads = text.num_hidden_layers, getattr(text, "num_attention_heads", None)
        usual = "full_attention" if heads else "recurrent"
        stated = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None)
        types = list(stated or [usual] * layers)[:layers]
        window = getattr(text, "sliding_window", None) or getattr(text, "attention_chunk_size", None) or 0
        return ModelShape(
            linear_parameters=counts.multiplied,
            head_parameters=counts.head,
            layers=layers,
            attention_width=_attention_width(text) if heads else 0,
            windowed_layers=sum(kind in SLIDING for kind in types) if window else 0,
            window=window,
            recurrent_layers=sum(kind not in PAIRWISE for kind in types),
        )


def _attention_width(text: Any) -> float:
    if getattr(text, "is_heterogeneous", False):  # sizes differ from layer to layer
        widths = [_width_of_layer(layer) for layer in text.per_layer_config]
        return sum(widths) / len(widths)
    return _width_of_layer(text)


def _width_of_layer(text: Any) -> float:
    heads = text.num_attention_heads
    if getattr(text, "qk_nope_head_dim", None):  # latent attention: queries and values differ in size
        return heads * (text.qk_nope_head_dim + text.qk_rope_head_dim + text.v_head_dim) / 2
    return heads * (getattr(text, "head_dim", None) or text.hidden_size // heads)


def model_flops(
    shape: ModelShape, tokens: int, sum_squared_lengths: int, lora_parameters: int = 0, full: bool = False
) -> float:
    """Return the operations of forward and backward without any recomputation, in FLOPs.

    ``tokens·(4|6)·N + 6·tokens·N_lora + 6·L·h·Σ len²``. This is what model FLOPs utilisation is measured with. The
    first layer of a LoRA run needs no input gradient, which is left out: at most 1.3 % too high.

    Args:
        shape: the model.
        tokens: real tokens, without padding.
        sum_squared_lengths: sum over the documents of their squared length, in tokens².
        lora_parameters: trainable parameters of the adapter; 0 without one.
        full: whether all weights are trained.
    """
    # A weight costs a token 2 operations forward, 2 for the gradient of its input and 2 for its own gradient, which a
    # frozen weight does not have (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). Backward attention is twice the
    # forward one, so three times in all.
    per_weight = 6 if full else 4
    dense = tokens * (per_weight * shape.linear_parameters + 6 * lora_parameters)
    return dense + 3 * _attention_forward(shape, tokens, sum_squared_lengths)


def hardware_flops(
    shape: ModelShape,
    tokens: int,
    sum_squared_lengths: int,
    lora_parameters: int = 0,
    full: bool = False,
    checkpoint_every: int = 0,
) -> float:
    """Return the operations that are really carried out: ``model_flops`` and the recomputed forward passes.

    Args:
        shape, tokens, sum_squared_lengths, lora_parameters, full: as in ``model_flops``.
        checkpoint_every: every how many layers one is recomputed in the backward pass: 1 all of them, 0 none. The
            head is never recomputed.
    """
    model = model_flops(shape, tokens, sum_squared_lengths, lora_parameters, full)
    layers = 2 * tokens * (shape.linear_parameters - shape.head_parameters + lora_parameters)
    again = recomputed_layers(shape.layers, checkpoint_every) / shape.layers
    return model + again * (layers + _attention_forward(shape, tokens, sum_squared_lengths))


def recomputed_layers(layers: int, checkpoint_every: int) -> int:
    """Return how many of ``layers`` are recomputed: transformers checkpoints the layers 0, n, 2n, ..."""
    return -(-layers // checkpoint_every) if checkpoint_every else 0


def _attention_forward(shape: ModelShape, tokens: int, squares: int) -> float:
    """Return the FLOPs of attention's forward pass: 2·h·Σ len² per layer.

    A layer with a window of w tokens computes at most w pairs per token, so the sum is bounded by 2·w·tokens: exact
    for documents shorter than the window, a little high around its size.
    """
    everywhere = shape.layers - shape.windowed_layers - shape.recurrent_layers
    windowed = min(squares, 2 * shape.window * tokens)
    return 2 * shape.attention_width * (everywhere * squares + shape.windowed_layers * windowed)
