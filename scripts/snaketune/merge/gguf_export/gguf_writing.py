"""A model folder as a GGUF file, for the architectures and tokenizers whose names in that format are certain.

Names of tensors and keys are those of the package ``gguf``. Two facts about the format are not in that package: Llama's
query and key rows are interleaved for its rotary positions, and a byte-level tokenizer is identified by the name of the
regular expression that splits its texts. Anything else is refused: llama.cpp's own converter supports more.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from snaketune.core.canonical import read_json
from snaketune.core.errors import ConfigError
from snaketune.merge.checkpoint import Checkpoint

if TYPE_CHECKING:
    import gguf

# By model_type: its name in the format, and whether rows of queries and keys are interleaved.
ARCHITECTURES = {"llama": ("llama", True), "qwen2": ("qwen2", False), "qwen3": ("qwen3", False)}
TYPES = {"f32": "F32", "bf16": "BF16", "f16": "F16", "q8_0": "Q8_0"}
_ROPE = {"default", None}
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The expressions that split texts before a byte-level vocabulary is applied, by their names in llama.cpp.
SPLITTERS = {_QWEN % "": "qwen2", _QWEN % "{1,3}": "llama-bpe"}


def refusal(model: Path) -> str:
    """Return why this module cannot write a model; empty where it can."""
    config, tokenizer = read_json(model / "config.json"), _tokenizer_of(model)
    kind, rope = config.get("model_type"), config.get("rope_parameters") or {}
    if kind not in ARCHITECTURES:
        return f"the architecture {kind} is not one of {', '.join(ARCHITECTURES)}"
    if rope.get("rope_type") not in _ROPE:
        return f"its positions are scaled ({rope.get('rope_type')})"
    if tokenizer is None or (tokenizer.get("model") or {}).get("type") != "BPE" or splitter(tokenizer) is None:
        return "llama.cpp does not know its tokenizer's pre-tokenisation"
    if config.get("attention_bias") or config.get("mlp_bias"):
        return "its layers have biases"
    return "its layers use sliding-window attention" if config.get("use_sliding_window") else ""


def splitter(tokenizer: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name of a tokenizer's pre-tokenisation; None if it has none."""
    if tokenizer.get("normalizer") not in (None, {"type": "NFC"}):
        return None
    steps = tokenizer.get("pre_tokenizer") or {}
    parts = steps.get("pretokenizers", [steps])
    kinds = [part.get("type") for part in parts]
    last = parts[-1]
    if kinds[-1] != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if kinds == ["ByteLevel"]:
        return "gpt-2" if last.get("use_regex", True) else None
    if kinds == ["Digits", "ByteLevel"]:
        return "smollm" if parts[0].get("individual_digits") and last.get("use_regex", True) else None
    if kinds == ["Split", "ByteLevel"] and parts[0].get("behavior") == "Isolated" and not last.get("use_regex", True):
        return SPLITTERS.get(str((parts[0].get("pattern") or {}).get("Regex")))
    return None


def write_gguf(model: Path, kind: str, target: Path) -> None:
    """Write the model in a folder to the file ``target``.

    Args:
        model: the folder, for which :func:`refusal` returns an empty text.
        kind: ``f32``, ``bf16``, ``f16`` or ``q8_0``; vectors, and matrices whose rows are not a multiple of a block of
            32, are kept in float32 or float16.
        target: the file.

    Raises:
        ConfigError: if a tensor has no name in the format.
    """
    import gguf

    config, weights = read_json(model / "config.json"), Checkpoint(model)
    name, is_interleaved = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(target, name)
    _write_sizes(writer, config, kind)
    _write_tokenizer(writer, model, config)
    names = gguf.get_tensor_name_map(_architecture(name), config["num_hidden_layers"])
    for own in sorted(weights.dtypes):
        # llama.cpp takes the embedding for the output layer where there is none.
        if own == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        theirs = names.get_name(own, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ConfigError(f"{model}: {own} has no GGUF name: set merge.gguf_converter to llama.cpp's converter.")
        values = weights.tensor(own).to(torch.float32).numpy()
        values = _interleaved(own, values, config) if is_interleaved else values
        stored = _type_of(values, kind)
        writer.add_tensor(theirs, gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _architecture(name: str) -> "gguf.MODEL_ARCH":
    import gguf

    return next(arch for arch, own in gguf.MODEL_ARCH_NAMES.items() if own == name)


def _type_of(values: np.ndarray, kind: str) -> "gguf.GGMLQuantizationType":
    import gguf

    types = gguf.GGMLQuantizationType
    if values.ndim < 2:
        return types.F32
    # q8_0 stores a scale per block of 32 values of a row.
    return types.F16 if kind == "q8_0" and values.shape[-1] % 32 else types[TYPES[kind]]


def _interleaved(name: str, values: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """Order the rows of queries and keys pair by pair, as this architecture's rotary positions require."""
    heads = {"q_proj.weight": config["num_attention_heads"], "k_proj.weight": config["num_key_value_heads"]}
    count = next((number for part, number in heads.items() if name.endswith(part)), None)
    if count is None:
        return values
    # transformers rotates the first half of a head's dimensions against the second, llama.cpp neighbouring pairs: row i
    # of the first half and row i of the second become neighbours.
    rows = values.reshape(count, 2, values.shape[0] // count // 2, values.shape[1])
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(values.shape))


def _write_sizes(writer: "gguf.GGUFWriter", config: Mapping[str, Any], kind: str) -> None:
    import gguf

    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config.get("rope_parameters") or {}
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0))
    writer.add_vocab_size(config["vocab_size"])
    files = {"f32": "ALL_F32", "bf16": "MOSTLY_BF16", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_file_type(gguf.LlamaFileType[files[kind]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _write_tokenizer(writer: "gguf.GGUFWriter", model: Path, config: Mapping[str, Any]) -> None:
    import gguf

    tokenizer = _tokenizer_of(model) or {}
    added = {entry["id"]: entry for entry in tokenizer.get("added_tokens", [])}
    texts = {number: text for text, number in tokenizer["model"]["vocab"].items()}
    texts |= {number: entry["content"] for number, entry in added.items()}
    kinds = gguf.TokenType
    tokens, types = [], []
    for number in range(config["vocab_size"]):
        # The embedding may have more rows than the tokenizer has tokens; llama.cpp needs a text for each.
        tokens.append(texts.get(number, f"[PAD{number}]"))
        is_control = number in added and added[number]["special"]
        used = kinds.CONTROL if is_control else kinds.USER_DEFINED if number in added else kinds.NORMAL
        types.append(used if number in texts else kinds.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(str(splitter(tokenizer)))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(
        [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    )
    settings = read_json(model / "tokenizer_config.json")
    for name, add in _special(writer):
        if (found := _number_of(settings.get(name), texts)) is not None:
            add(found)
    writer.add_add_bos_token(_adds_a_first_token(tokenizer))
    template = model / "chat_template.jinja"
    if template.is_file() and (text := template.read_text(encoding="utf-8")):
        writer.add_chat_template(text)


def _special(writer: "gguf.GGUFWriter") -> Iterator[tuple[str, Any]]:
    yield "bos_token", writer.add_bos_token_id
    yield "eos_token", writer.add_eos_token_id
    yield "pad_token", writer.add_pad_token_id
    yield "unk_token", writer.add_unk_token_id


def _number_of(given: Any, texts: Mapping[int, str]) -> int | None:
    text = given.get("content") if isinstance(given, dict) else given
    return next((number for number, own in texts.items() if own == text), None) if text else None


def _adds_a_first_token(tokenizer: Mapping[str, Any]) -> bool:
    """Tell whether the tokenizer itself adds a special token before a text."""
    processor = tokenizer.get("post_processor") or {}
    steps = processor.get("processors", [processor])
    return any("SpecialToken" in (step.get("single") or [{}])[0] for step in steps)


def _tokenizer_of(model: Path) -> dict[str, Any] | None:
    path = model / "tokenizer.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
