"""Configurations of well-known models, written out by hand: no hub is needed to count them."""

from transformers import LlamaConfig, MistralConfig, MixtralConfig, Qwen2Config, Qwen3Config


def llama(hidden, ffn, layers, heads, kv, vocab) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        vocab_size=vocab,
        tie_word_embeddings=False,
    )


LLAMA_2_7B = llama(4096, 11008, 32, 32, 32, 32000)
LLAMA_2_13B = llama(5120, 13824, 40, 40, 40, 32000)
YI_34B = llama(7168, 20480, 60, 56, 8, 64000)
LLAMA_3_1_8B = llama(4096, 14336, 32, 32, 8, 128256)
QWEN_3_8B = Qwen3Config(
    vocab_size=151936,
    hidden_size=4096,
    intermediate_size=12288,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=False,
)
QWEN_3_06B = Qwen3Config(
    vocab_size=151936,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=True,
)
MIXTRAL_8X7B = MixtralConfig()

SMALL = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
}
SMALL_MODELS = {
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=False),
    "qwen2, tied": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3, wide heads": Qwen3Config(**SMALL, head_dim=128, tie_word_embeddings=False),
    "mistral, full attention": MistralConfig(**SMALL, sliding_window=None),
}
