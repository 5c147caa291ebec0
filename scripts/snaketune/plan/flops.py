"""FLOPs of training, computed before the run from parameter counts and document lengths.

A multiplication and an addition are two operations. A matrix of N entries costs 2N per token in the forward pass and,
in the backward pass, 2N for the gradient of its input and 2N for its own. Frozen matrices need no gradient of their
own, so a LoRA run costs 4N per token plus 6 per adapter parameter. Attention of one document of n tokens over width h
costs 2·n²·h in the forward pass if the upper triangle is skipped (n²/2 pairs, two products of 2h each) and twice that
in the backward pass: 6·n²·h per layer. The conventions are those of torchtitan (models/utils.py, causal half) and of
NVIDIA's Megatron-Bridge (training/utils/flop_utils.py, sums of squared document lengths; frozen weights at two thirds).
"""

from dataclasses import dataclass
from typing import Any

from snaketune.plan.cache import remembered
from snaketune.plan.memory.counting import count_config_parameters
from snaketune.plan.memory.unknown import unknown_instead

SLIDING = ("sliding_attention", "chunked_attention")
PAIRWISE = ("full_attention", *SLIDING, "attention", "hybrid")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a model that determine its FLOPs per token."""

    linear_parameters: int
    """Matrix entries that a token is multiplied with: layers, active experts and head, without the input embedding."""
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
    counts, text = count_config_parameters(config), config.get_text_config()
    with unknown_instead(config, "work"):
        layers, heads = text.num_hidden_layers, getattr(text, "num_attention_heads", None)
        usual = "full_attention" if heads else "recurrent"
        stated = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None)
        # Configurations cut to fewer layers keep their full list of types.
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
    """Return the FLOPs of forward and backward pass without recomputation, as used for MFU.

    ``tokens·(4|6)·N + 6·tokens·N_lora + 6·L·h·Σ len²``. That the first layer of a LoRA run needs no input gradient is
    neglected: the result is at most 1.3% too high.

    Args:
        shape: the model.
        tokens: real tokens, without padding.
        sum_squared_lengths: sum over the documents of their squared length, in tokens².
        lora_parameters: trainable parameters of the adapter; 0 without one.
        full: whether all weights are trained.
    """
    # Per token a weight costs 2 operations in the forward pass, 2 for the gradient of its input and 2 for its own,
    # which a frozen weight does not have (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). The backward pass of
    # attention costs twice its forward pass, so three times that in all.
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
    """Return the FLOPs actually executed: ``model_flops`` and the recomputed forward passes.

    Args:
        shape: the model.
        tokens: real tokens, without padding.
        sum_squared_lengths: sum over the documents of their squared length, in tokens².
        lora_parameters: trainable parameters of the adapter; 0 without one.
        full: whether all weights are trained.
        checkpoint_every: one in this many layers is recomputed in the backward pass: 1 all of them, 0 none. The head is
            never recomputed.
    """
    model = model_flops(shape, tokens, sum_squared_lengths, lora_parameters, full)
    # Recomputation repeats the forward pass, 2 operations per weight and token.
    layers = 2 * tokens * (shape.linear_parameters - shape.head_parameters + lora_parameters)
    again = recomputed_layers(shape.layers, checkpoint_every) / shape.layers
    return model + again * (layers + _attention_forward(shape, tokens, sum_squared_lengths))


def recomputed_layers(layers: int, checkpoint_every: int) -> int:
    """Return the number of recomputed layers: transformers checkpoints layers 0, n, 2n, ..."""
    return -(-layers // checkpoint_every) if checkpoint_every else 0


def _attention_forward(shape: ModelShape, tokens: int, squares: int) -> float:
    """Return the FLOPs of attention's forward pass: 2·h·Σ len² per layer.

    A layer with a window of w tokens computes at most w pairs per token, so its Σ len² is replaced by 2·w·tokens if
    that is smaller: exact for documents shorter than the window, slightly high for lengths around it.
    """
    # Σ len² counts each pair twice: causal attention computes half of them, hence the factor 2 at the window.
    everywhere = shape.layers - shape.windowed_layers - shape.recurrent_layers
    # w pairs for each of n tokens are w·n, in units of Σ len² twice that.
    windowed = min(squares, 2 * shape.window * tokens)
    return 2 * shape.attention_width * (everywhere * squares + shape.windowed_layers * windowed)
