"""Small GGUF files, written with the package that llama.cpp's converter uses."""

from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
SPECIAL = ("<unk>", "<|im_start|>", "<|im_end|>")
TOKENS = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "ll"]
MERGES = ["h e", "l l"]


def small_llama(seed: int = 0, **changes) -> LlamaForCausalLM:
    """A random model whose sizes are multiples of a block of quantised weights (32)."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(TOKENS), **{**sizes, **heads, **changes}))


def write_gguf(path: Path, model: LlamaForCausalLM | None = None, kind=gguf.GGMLQuantizationType.F32, **metadata):
    """Write ``model`` as llama.cpp's converter does; ``metadata`` adds to its own."""
    model = model or small_llama()
    writer = gguf.GGUFWriter(path, "llama")
    values = {
        "general.name": "Small Llama",
        "general.license": "apache-2.0",
        "tokenizer.chat_template": TEMPLATE,
    }
    for key, value in {**values, **metadata}.items():
        writer.add_key_value(key, value, _type_of(value))
    _write_sizes(writer, model.config)
    _write_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        values = _permuted(name, tensor.float().numpy(), model.config)
        stored = kind if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        target = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(target, gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _type_of(value):
    types = {str: gguf.GGUFValueType.STRING, int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32}
    return types[type(value)]


def _write_sizes(writer: gguf.GGUFWriter, config: LlamaConfig) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    ordinary = len(TOKENS) - len(SPECIAL)
    writer.add_token_types([gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * ordinary)
    writer.add_token_merges(MERGES)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _permuted(name: str, values: np.ndarray, config: LlamaConfig) -> np.ndarray:
    """Order the rows of queries and keys as llama.cpp's rotary positions want them."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((number for part, number in heads.items() if f"{part}.weight" in name), None)
    if count is None:
        return values
    rows = values.reshape(count, 2, values.shape[0] // count // 2, values.shape[1])
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(values.shape))
