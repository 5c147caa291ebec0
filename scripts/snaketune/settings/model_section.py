"""The section `model` as stages get it. Generated from the configuration's models: run `make generate`."""

from typing import Literal, TypedDict


class TinyModelSection(TypedDict, total=False):
    """The model that `model.name_or_path: tiny` builds from scratch: no download, for trials on a CPU."""

    corpus: Literal["quickstart", "data"]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    pretrain_steps: int
    pretrain_batch_size: int
    pretrain_learning_rate: float
    seed: int


class ModelSection(TypedDict, total=False):
    """The keys of `model` that decide results; a slice has those its stage depends on."""

    name_or_path: str
    revision: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    quantization: Literal["none", "8bit", "4bit"]
    attn_implementation: Literal[
        "auto",
        "eager",
        "sdpa",
        "flash_attention_2",
        "flash_attention_3",
        "flex_attention",
        "varlen",
    ]
    trust_remote_code: bool
    tiny: TinyModelSection
