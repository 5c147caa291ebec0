"""Miniatures: models of the same kind with a few thousand weights, to test what depends on the architecture alone."""

from collections.abc import Mapping
from typing import Any

VOCABULARY = 320
HIDDEN_WIDTH, HEADS, KEY_HEADS, HEAD_WIDTH, EXPERTS, USED, LAYERS = 32, 4, 2, 8, 4, 2, 8

# Small sizes by the names that the configurations of transformers use for them.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "byte_vocab_size"), VOCABULARY),
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "n_embed", "dim", "emb_dim", "embedding_size", "rnn_hidden_size"),
        HIDDEN_WIDTH,
    ),
    **dict.fromkeys(("lru_width", "word_embed_proj_dim", "expert_dim", "hidden_size_global"), HIDDEN_WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size", "dff"), 2 * HIDDEN_WIDTH),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "decoder_ffn_dim"), HIDDEN_WIDTH),
    **dict.fromkeys(("encoder_ffn_dim", "shared_intermediate_size", "expert_ffn_hidden_size"), HIDDEN_WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "num_swa_attention_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads"), KEY_HEADS),
    **dict.fromkeys(("head_dim", "global_head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), HEAD_WIDTH),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "index_head_dim", "rotary_dim"), HEAD_WIDTH),
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim"), HEAD_WIDTH),
    **dict.fromkeys(("linear_num_heads", "linear_num_value_heads"), HEADS),
    "linear_num_key_heads": KEY_HEADS,
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts", "moe_k"), USED),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), 128),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 1),
    "encoder_hash_byte_group_vocab": VOCABULARY,
    "sliding_window": 16,
    "attention_chunk_size": 16,
}
LAYER_COUNTS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"),
    *("num_decoder_layers", "num_encoder_layers"),
)


def miniature(config: Any, layers: int | None = None, own: Mapping[str, Any] | None = None) -> Any:
    """Return a tiny configuration of the same kind as ``config``; settings other than sizes stay as they are.

    Args:
        config: a ``PreTrainedConfig``.
        layers: number of layers; by default enough to include every kind of layer of the model.
        own: settings that this kind of model needs instead.

    Raises:
        Exception: whatever the configuration class raises if sizes do not fit together.
    """
    stated = config.to_dict()
    given = {name: value for name, value in SMALL.items() if stated.get(name) is not None}
    # Multi-head attention must not become grouped-query attention: some kinds support only the former.
    if stated.get("num_key_value_heads") == stated.get("num_attention_heads"):
        given |= {"num_key_value_heads": HEADS} if "num_key_value_heads" in given else {}
    if stated.get("attention_hidden_size") and stated.get("hidden_size"):
        given["attention_hidden_size"] = HIDDEN_WIDTH * max(1, stated["attention_hidden_size"] // stated["hidden_size"])
    count = layers or _layers(stated)
    given |= {name: count for name in LAYER_COUNTS if stated.get(name) is not None}
    for name in getattr(type(config), "sub_configs", {}):
        if hasattr(getattr(config, name, None), "to_dict"):
            given[name] = miniature(getattr(config, name), layers)
    if layers is not None:  # a kind rather than a given model: all other settings are the kind's defaults
        return type(config)(**{**given, **(own or {})})
    return _with_the_rest(config, stated, given, count)


def _layers(stated: Mapping[str, Any]) -> int:
    """Return the number of layers needed to include every kind of layer."""
    count = next((stated[name] for name in LAYER_COUNTS if isinstance(stated.get(name), int)), LAYERS)
    kinds = stated.get("layer_types") or stated.get("layers_block_type") or stated.get("layer_block_type") or []
    first_seen = [kinds.index(kind) for kind in set(kinds)]
    return min(count, max(first_seen) + 1 if first_seen else LAYERS)


def _with_the_rest(config: Any, stated: Mapping[str, Any], given: dict[str, Any], count: int) -> Any:
    """Return the configuration with per-layer lists shortened; sizes missing in the table are the kind's defaults."""
    total = next((stated[name] for name in LAYER_COUNTS if isinstance(stated.get(name), int)), 0)
    rest = {name: value for name, value in stated.items() if name not in given and name != "transformers_version"}
    rest = {name: value[:count] if _is_per_layer(value, total) else value for name, value in rest.items()}
    if isinstance(rest.get("per_layer_config"), dict):
        rest["per_layer_config"] = {at: one for at, one in rest["per_layer_config"].items() if int(at) < count}
    try:
        return type(config)(**{**rest, **given})
    except Exception:  # some sizes depend on each other: use the kind's defaults for every number
        kept = {name: value for name, value in rest.items() if isinstance(value, str | bool | list)}
        return type(config)(**{**kept, **given})


def _is_per_layer(value: Any, layers: int) -> bool:
    return isinstance(value, list) and len(value) == layers
