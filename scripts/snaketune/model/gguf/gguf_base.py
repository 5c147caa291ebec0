"""GGUF files as base models: dequantised once into a folder in the Hugging Face format.

transformers reads GGUF files, but silently drops tensors that it does not know and some scaling of positions. Both are
therefore checked here against the file itself.
"""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snaketune.core.errors import ConfigError, DataError, SnaketuneError
from snaketune.model.configuration import CONFIG, write_configuration
from snaketune.model.folder import link
from snaketune.model.gguf.gguf_file import GgufFacts, UnsupportedGguf, gguf_facts, require_gguf
from snaketune.model.json_files import read_object

if TYPE_CHECKING:
    from snaketune.model.gguf.gguf_reader import GgufReader

ROPE_FACTORS = "rope_freqs.weight"
# Llama 3.1 and 3.2 differ only in the factor (Meta's `use_scaled_rope`, rope_type `llama3` in transformers).
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
FACTOR_TOLERANCE = 1e-4

if TYPE_CHECKING:
    from snaketune.model.gguf.gguf_reader import GgufReader

LINK_NAME = "model.gguf"  # transformers requires the suffix, which files of Ollama's store lack
# The file's origin and quantisation do not apply to the folder that is written.
NOT_COPIED = ("_name_or_path", "_model_name_or_path", "quantization_config")


def convert_gguf(file: Path, folder: Path, weights: bool = True) -> GgufFacts:
    """Write configuration, tokenizer, chat template and, as bfloat16 safetensors, the weights of ``file``.

    Args:
        file: the GGUF file.
        folder: an empty folder.
        weights: whether to include the weights; planning and data preparation do not need them.

    Raises:
        ConfigError: if the package `gguf` is missing, or transformers has no model or tokenizer for the file.
        DataError: if the file is damaged or a weight is missing.
    """
    require_gguf(file)
    from snaketune.model.gguf.gguf_reader import parsed_once

    with _one_sentence(file), parsed_once(file) as reader, tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        facts = gguf_facts(file, reader)
        source = Path(beside)
        link(file, source / LINK_NAME)
        _save_tokenizer(source, folder)
        _save_configuration(source, folder, reader)
        if weights:
            # ``save_pretrained`` overwrites the config.json that was corrected above, so it is written again.
            config = read_object(folder / CONFIG)
            _save_weights(source, folder, reader)
            write_configuration(folder / CONFIG, config)
    return facts


@contextmanager
def _one_sentence(file: Path) -> Iterator[None]:
    """Turn errors of gguf and transformers about a file into one that says what to do."""
    try:
        yield
    except (SnaketuneError, OSError, ImportError):
        raise
    except Exception as error:  # damaged bytes may cause any error; the reason is passed on
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, UnsupportedGguf | NotImplementedError) or "not supported" in reason:
            raise ConfigError(
                f"model.name_or_path {file} is a GGUF file that cannot be trained from ({reason}): give the folder of"
                " the original weights."
            ) from error
        raise DataError(f"{file} cannot be read as a GGUF file ({reason}): download it again.") from error


def _save_tokenizer(source: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(source, gguf_file=LINK_NAME, local_files_only=True).save_pretrained(folder)


def _save_configuration(source: Path, folder: Path, reader: "GgufReader") -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(source, gguf_file=LINK_NAME, local_files_only=True)
    kind: Any = AutoModelForCausalLM._model_mapping[type(config)]
    config.architectures = [kind.__name__]
    config.save_pretrained(folder)
    written = {key: value for key, value in read_object(folder / CONFIG).items() if key not in NOT_COPIED}
    write_configuration(folder / CONFIG, {**written, **scaled_positions(reader, written), "dtype": "bfloat16"})


def _save_weights(source: Path, folder: Path, reader: "GgufReader") -> None:
    """Dequantise tensor by tensor with transformers' loader; memory holds at most the bfloat16 model."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    result: Any = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=LINK_NAME,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        local_files_only=True,
    )
    model, loaded = result
    _require_every_weight(model, loaded, reader)
    model.save_pretrained(folder)


def _require_every_weight(model: Any, loaded: dict[str, Any], reader: "GgufReader") -> None:
    """Refuse a model with a randomly initialised weight, or without one of the file's tensors.

    transformers silently drops tensors whose names it does not know, so the numbers of values are compared.
    """
    missing = sorted(loaded["missing_keys"]) + sorted(str(key) for key in loaded["mismatched_keys"])
    if missing:
        raise UnsupportedGguf(f"it has no weights for {', '.join(missing[:3])}")
    stored = sum(int(tensor.n_elements) for tensor in reader.tensors if tensor.name != ROPE_FACTORS)
    # Tied weights appear twice in the state dict but once in the file: count each storage once.
    distinct = {tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values()}
    held = sum(distinct.values())
    if stored != held:
        raise UnsupportedGguf(f"it holds {stored:,} values, of which {type(model).__name__} takes {held:,}")


def scaled_positions(reader: "GgufReader", config: dict[str, Any]) -> dict[str, Any]:
    """Return ``rope_parameters`` with the file's scaling of positions if ``config`` lacks it, else nothing.

    Raises:
        UnsupportedGguf: if the configuration cannot express the file's scaling.
    """
    rope = config.get("rope_parameters") or {}
    if "rope_theta" not in rope or rope.get("rope_type", "default") != "default":
        return {}
    prefix = f"{reader.value('general.architecture')}.rope.scaling"
    kind = reader.value(f"{prefix}.type", "none")
    factors = next((tensor.data for tensor in reader.tensors if tensor.name == ROPE_FACTORS), None)
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
    """Return the parameters from which the file's ``factors``, one per pair of dimensions, were computed."""
    # llama.cpp stores the result of Llama 3's formula, not its parameters. The lowest frequency is divided by the full
    # factor, so the maximum reveals it; recomputing all factors verifies the guess.
    scale = float(factors.max())
    if np.allclose(factors, llama3_factors(len(factors), theta, scale), rtol=FACTOR_TOLERANCE):
        return {"rope_type": "llama3", "factor": scale, **LLAMA3}
    raise UnsupportedGguf(f"it scales positions by custom factors, {ROPE_FACTORS}")


def llama3_factors(pairs: int, theta: float, scale: float) -> np.ndarray:
    """Return the divisors that Llama 3.1 applies to the frequencies of ``pairs`` rotary dimensions, float64 [pairs]."""
    # Frequencies with many turns within the original context stay, those with less than one are divided by ``scale``,
    # and those between are interpolated.
    frequencies = theta ** -(np.arange(pairs) / pairs)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    turns = LLAMA3["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return 1 / ((1 - share) / scale + share)
