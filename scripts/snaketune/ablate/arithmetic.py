"""What the token arithmetic predicts: the operations per real token of each case, padding included."""

from collections.abc import Mapping
from typing import Any

from snaketune.ablate.layouts import Layout
from snaketune.plan.flops import ModelShape, hardware_flops

DENSE = ("sdpa", "eager")
"""Kernels that compute every pair of places in a row and mask most of them."""


def operations(
    shape: ModelShape, layout: Layout, engine: Mapping[str, Any], trained_parameters: int, full: bool
) -> float:
    """Return the operations that a training carries out per real token.

    Layers compute at every place, padding or not, unless training puts the tokens of a batch into one row; a chunked
    loss only where a loss is taken. Attention with a mask computes whole rows, ``row_length²`` pairs where half of a
    document's would do.

    Args:
        shape: of the model.
        layout: the rows.
        engine: what training decided: ``attention``, ``chunked_loss``, ``checkpoint_every``, ``computes_padding``.
        trained_parameters: of the adapter.
        full: whether all weights are trained.
    """
    places = layout.rows * layout.row_length if engine.get("computes_padding", True) else layout.tokens
    is_dense = engine["attention"] in DENSE
    squares = 2 * layout.rows * layout.row_length**2 if is_dense else layout.squares
    lora, every = 0 if full else trained_parameters, engine["checkpoint_every"]
    whole = hardware_flops(shape, places, squares, lora, full, every)
    if engine["chunked_loss"]:
        whole -= (6 if full else 4) * shape.head_parameters * (places - layout.trained)
    return whole / layout.tokens


def predicted_speed_up(off: float, on: float) -> float:
    """Return how many times faster the case with ``on`` operations per real token should be."""
    return off / on
