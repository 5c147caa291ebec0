"""Scaled rotary positions of a GGUF file, which transformers' reader leaves out for most architectures.

Without them a model is right up to its first context length and wrong beyond it, and nothing says so.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from snaketune.model.gguf.gguf_file import UnsupportedGguf

if TYPE_CHECKING:
    from snaketune.model.gguf.gguf_reader import GgufReader

FACTORS = "rope_freqs.weight"
# Llama 3.1 and 3.2 differ in the factor alone (Meta's `use_scaled_rope`, transformers' rope_type `llama3`).
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
TOLERANCE = 1e-4


def scaled_positions(reader: "GgufReader", config: dict[str, Any]) -> dict[str, Any]:
    """Return what ``config`` lacks of the file's scaled positions: ``rope_parameters``, or nothing.

    Raises:
        UnsupportedGguf: if the file scales positions in a way that cannot be expressed.
    """
    rope = config.get("rope_parameters") or {}
    if "rope_theta" not in rope or rope.get("rope_type", "default") != "default":
        return {}
    prefix = f"{reader.value('general.architecture')}.rope.scaling"
    kind = reader.value(f"{prefix}.type", "none")
    factors = next((tensor.data for tensor in reader.tensors if tensor.name == FACTORS), None)
    if factors is not None:
        return {"rope_parameters": rope | _llama3(np.asarray(factors, np.float64), float(rope["rope_theta"]))}
    if kind == "none":
        return {}
    if kind not in ("linear", "yarn") or reader.value(f"{prefix}.factor") is None:
        raise UnsupportedGguf(f"it scales positions by {kind!r}")
    original = reader.value(f"{prefix}.original_context_length")
    scaled = {"rope_type": kind, "factor": float(reader.value(f"{prefix}.factor"))}
    return {"rope_parameters": rope | scaled | ({"original_max_position_embeddings": original} if original else {})}


def _llama3(factors: np.ndarray, theta: float) -> dict[str, Any]:
    """Return the parameters from which the file's ``factors``, one for each pair of dimensions, were computed."""
    scale = float(factors.max())
    if np.allclose(factors, llama3_factors(len(factors), theta, scale), rtol=TOLERANCE):
        return {"rope_type": "llama3", "factor": scale, **LLAMA3}
    raise UnsupportedGguf(f"it scales positions by factors of its own, {FACTORS}")


def llama3_factors(pairs: int, theta: float, scale: float) -> np.ndarray:
    """Return by how much Llama 3.1 divides the frequency of each of ``pairs`` rotary dimensions, float64."""
    frequencies = theta ** -(np.arange(pairs) / pairs)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    turns = LLAMA3["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return 1 / ((1 - share) / scale + share)
