"""Every causal language model that transformers knows, each as a configuration of a few thousand weights."""

from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from snaketune.model.miniature import EXPERTS, HEAD_WIDTH, HEADS, KEY_HEADS, USED, miniature

LAYERS = 2
LATENT = {"num_key_value_heads": HEADS}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_expand": 2, "mamba_chunk_size": 16}
PICTURES = {"codebook_size": 64, "embed_dim": 8, "base_channels": 32, "channel_multiplier": [1, 1]}
PICTURES |= {"num_res_blocks": 1, "hidden_size": 32, "attn_resolutions": []}
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
# What a kind needs beyond that, or instead of it.
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "axk1",
            "axk2",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "glm4_moe_lite",
            "glm_moe_dsa",
            "longcat_flash",
            "minicpm3",
            "youtu",
            "dots3_note_text",
        ),
        LATENT,
    ),
    **dict.fromkeys(("bamba", "granitemoehybrid"), MAMBA | {"mamba_n_groups": 1}),
    "falcon_h1": MAMBA | {"mamba_n_groups": 1, "mamba_d_ssm": 64},
    "reformer": {
        "is_decoder": True,
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "lsh"],
    },
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 16},
    **{kind: {"head_dim": HEAD_WIDTH} for kind in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "nemotron": {"head_dim": HEAD_WIDTH, "num_key_value_heads": KEY_HEADS},
    "deepseek_v2": LATENT | {"num_experts_per_tok": USED},
    "dots1": {"n_routed_experts": EXPERTS, "num_experts_per_tok": USED, "n_shared_experts": 1},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
    "gemma3n_text": {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8, "laurel_rank": 4}
    | {"layer_types": ["sliding_attention", "full_attention"], "activation_sparsity_pattern": [0.0, 0.0]},
    **dict.fromkeys(
        ("gemma4_text", "gemma4_unified_text"),
        {"hidden_size_per_layer_input": 8, "layer_types": ["sliding_attention", "full_attention"]}
        | {"per_layer_config": {1: {"head_dim": 2 * HEAD_WIDTH}}},
    ),
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"), HYBRID),
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "zamba": {"layers_block_type": ["hybrid", "hybrid"], "attention_hidden_size": 64}
    | {"attention_head_dim": 16, "mamba_dt_rank": 8},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "mamba_d_state": 8, "chunk_size": 16, "adapter_rank": 8},
    "bailing_hybrid": LATENT
    | {"num_expert_group": 1, "layer_group_size": 2, "linear_num_heads": 4}
    | {"linear_head_dim": 8, "qk_rope_head_dim": HEAD_WIDTH},
    "xmod": {"default_language": "en_XX"},
    "emu3": {"vocabulary_map": {"<image>": 2}, "vq_config": PICTURES},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"]}
    | {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("sliding_attention", "full_attention")
        }
    },
}


# Parts of a model that are a model of their own kind, as their kind needs it.
PARTS = {
    **{kind: {"text_config": f"{kind}_text"} for kind in ("qwen3_5", "qwen3_5_moe")},
}


# Kinds that are refused when they are prepared: not causal with their own settings, or an encoder-decoder.
REFUSED = (
    *("bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "blenderbot", "blenderbot-small"),
    *("camembert", "cpmant", "data2vec-text", "electra", "ernie", "marian", "mbart", "megatron-bert", "musicgen"),
    *("musicgen_melody", "mvp", "pegasus", "plbart", "prophetnet", "rembert", "roberta", "roberta-prelayernorm"),
    *("roc_bert", "roformer", "whisper", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod"),
)
# Kinds that are refused in front of the first step, with a part of the sentence.
LATER = {
    "git": "a git model with these settings fails on a row of text",  # it wants a picture
    "reformer": "a reformer model with these settings fails on a row of text",  # and rows of one length
}
# Kinds that have no tiny model here, with what the attempt ends in.
UNBUILT = {
    "dbrx": "has no attribute 'rope_theta'",  # transformers' own configuration of its attention lacks it
    "dots3_note": "per_layer_config",  # which its default has for layers that a small one lacks
    "gemma3n": "requires the PIL library",  # for its pictures; gemma3n_text has none
    "gemma4_assistant": "hidden_size_per_layer_input must be 0",  # drafts for another model, which it cannot do without
    "gemma4_unified_assistant": "layer types producing a cache",  # the same
}


def names() -> list[str]:
    """Return the kinds of causal language models of the installed transformers, sorted."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def configuration(kind: str) -> PreTrainedConfig:
    """Return a tiny configuration of the kind of model ``kind``."""
    parts = {name: configuration(part) for name, part in PARTS.get(kind, {}).items()}
    return miniature(CONFIG_MAPPING[kind](), LAYERS, {**OWN.get(kind, {}), **parts})
