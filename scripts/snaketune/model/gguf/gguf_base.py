"""A GGUF file as the base model: its weights dequantised once into a folder in the Hugging Face format."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snaketune.core.errors import ConfigError, DataError, SnaketuneError
from snaketune.model.configuration import CONFIG, write_configuration
from snaketune.model.folder import link
from snaketune.model.gguf.gguf_file import GgufFacts, UnsupportedGguf, gguf_facts
from snaketune.model.json_files import read_object

if TYPE_CHECKING:
    from snaketune.model.gguf.gguf_reader import GgufReader

FACTORS = "rope_freqs.weight"
# Llama 3.1 and 3.2 differ in the factor alone (Meta's `use_scaled_rope`, transformers' rope_type `llama3`).
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
TOLERANCE = 1e-4

if TYPE_CHECKING:
    from snaketune.model.gguf.gguf_reader import GgufReader

PACKAGE = "gguf"
LINK_NAME = "model.gguf"  # transformers goes by the ending, which files of Ollama's store lack
# A file's origin and the packing of its weights say nothing about the folder that is written.
LEFT_OUT = ("_name_or_path", "_model_name_or_path", "quantization_config")


def convert_gguf(file: Path, folder: Path, weights: bool = True) -> GgufFacts:
    """Write configuration, tokenizer, chat template and, as bfloat16 safetensors, the weights of ``file``.

    Args:
        file: the GGUF file.
        folder: an empty folder.
        weights: whether they are wanted; a run can be planned and its data prepared without.

    Raises:
        ConfigError: if the package `gguf` is missing, or transformers has no model or no tokenizer for the file.
        DataError: if the file is damaged, or a weight is missing.
    """
    require_package(file)
    from snaketune.model.gguf.gguf_reader import parsed_once

    with _one_sentence(file), parsed_once(file) as reader, tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        facts = gguf_facts(file, reader)
        source = Path(beside)
        link(file, source / LINK_NAME)
        _save_tokenizer(source, folder)
        _save_configuration(source, folder, reader)
        if weights:
            config = read_object(folder / CONFIG)
            _save_weights(source, folder, reader)
            write_configuration(folder / CONFIG, config)
    return facts


def require_package(file: Path) -> None:
    """Raise ConfigError if the package that reads ``file`` is not installed."""
    if find_spec(PACKAGE) is None:
        raise ConfigError(
            f"model.name_or_path {file} is a GGUF file, which needs the package {PACKAGE}: install it with"
            " `pip install --no-deps -r envs/extras/gguf.txt -c constraints.txt`."
        )


@contextmanager
def _one_sentence(file: Path) -> Iterator[None]:
    """Turn what gguf and transformers raise about a file into an error that says what to do."""
    try:
        yield
    except (SnaketuneError, OSError, ImportError):
        raise
    except Exception as error:  # damaged bytes surface as whatever they lead to; the reason is passed on
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
    written = {key: value for key, value in read_object(folder / CONFIG).items() if key not in LEFT_OUT}
    write_configuration(folder / CONFIG, {**written, **scaled_positions(reader, written), "dtype": "bfloat16"})


def _save_weights(source: Path, folder: Path, reader: "GgufReader") -> None:
    """Dequantise tensor by tensor through transformers' loader; at most the bfloat16 model is in memory."""
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
    """Refuse a model in which a weight was made up, or from which a tensor of the file is missing.

    transformers leaves out tensors whose names it does not know, without a word.
    """
    missing = sorted(loaded["missing_keys"]) + sorted(str(key) for key in loaded["mismatched_keys"])
    if missing:
        raise UnsupportedGguf(f"it has no weights for {', '.join(missing[:3])}")
    stored = sum(int(tensor.n_elements) for tensor in reader.tensors if tensor.name != FACTORS)
    distinct = {tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values()}
    held = sum(distinct.values())
    if stored != held:
        raise UnsupportedGguf(f"it holds {stored:,} values, of which {type(model).__name__} takes {held:,}")


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
    raise UnsupportedGguf(f"it scales positions by custom factors, {FACTORS}")


def llama3_factors(pairs: int, theta: float, scale: float) -> np.ndarray:
    """Return by how much Llama 3.1 divides the frequency of each of ``pairs`` rotary dimensions, float64."""
    frequencies = theta ** -(np.arange(pairs) / pairs)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    turns = LLAMA3["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return 1 / ((1 - share) / scale + share)
