"""The model and adapter sections of the configuration."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A section of the configuration: unknown keys are errors, values are checked, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


def as_list(value: Any) -> Any:
    """Return a single name as a list of one."""
    return [value] if isinstance(value, str) else value


def _modules(value: Any) -> Any:
    return value if value == "all-linear" or not isinstance(value, str) else [value]


def _experts(value: Any) -> Any:
    return value if value == "all-experts" or not isinstance(value, str) else [value]


def _tokens(value: Any) -> Any:
    return value if value == "new" or not isinstance(value, str | int) else [value]


TokenName = Annotated[int, Field(ge=0, strict=True)] | Annotated[str, Field(min_length=1, strict=True)]


class TinyModelConfig(Section):
    """The model that `model.name_or_path: tiny` builds from scratch: no download, for trials on a CPU."""

    corpus: Literal["quickstart", "data"] = Field(
        "data",
        description="Its pre-training text: the example's world, or the plain text of this run's training split.",
    )
    vocab_size: int = Field(4096, ge=300, le=65536, description="Size of its byte-level BPE vocabulary, in tokens.")
    hidden_size: int = Field(192, ge=8, description="Width of the model.")
    intermediate_size: int = Field(512, ge=8, description="Width of the feed-forward layers.")
    num_hidden_layers: int = Field(3, ge=1, description="Number of layers.")
    num_attention_heads: int = Field(6, ge=1, description="Attention heads; must divide hidden_size.")
    max_position_embeddings: int = Field(1024, ge=16, description="Longest context, in tokens.")
    pretrain_steps: int = Field(200, ge=0, description="Steps of its pre-training; 0 leaves random weights.")
    pretrain_batch_size: int = Field(
        16, ge=1, description="Texts per pre-training step, at 128 tokens each: long texts mean fewer."
    )
    pretrain_learning_rate: float = Field(4e-3, gt=0, description="Peak learning rate of its pre-training.")
    seed: int = Field(0, ge=0, description="Seed of its weights and of the order of its corpus.")


class ModelConfig(Section):
    """The base model."""

    name_or_path: str = Field(
        ...,
        min_length=1,
        description="A hub id (org/name), a local folder, a GGUF file, `smollm2` (a real model of 135 M parameters for "
        "trials), `tiny`, which is built from scratch, or `run:<name>`, the merged model of another run of this "
        "configuration.",
    )
    revision: str = Field(
        "main", min_length=1, description="Branch, tag or commit of a hub id; the commit it resolves to is recorded."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Dtype of the base weights in training; `auto`: bfloat16 if the GPU supports it, float32 on a CPU; "
        "full fine-tuning keeps float32 weights and computes in bfloat16.",
    )
    quantization: Literal["none", "8bit", "4bit"] = Field(
        "none",
        description="Quantise the frozen base weights while an adapter is trained: LLM.int8 or nf4 with "
        "double quantisation, by bitsandbytes. Slower; the adapter is merged into the original weights.",
    )
    attn_implementation: Literal[
        "auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "varlen"
    ] = Field(
        "auto",
        description="Attention kernel in training; `auto` on a GPU: FlashAttention 3 or 2 if installed, else `varlen`, "
        "torch's own for packed rows; on a CPU `varlen`, document by document, or sdpa with a mask if the model's "
        "attention is not plain dot-product attention; eager for models that support nothing else. Evaluation uses "
        "sdpa or eager for `auto` and `varlen`.",
    )
    trust_remote_code: bool = Field(
        False, description="Allow Python code from the model repository. It runs with your permissions: read it first."
    )
    tiny: TinyModelConfig = TinyModelConfig()


class AdapterConfig(Section):
    """The adapter that is trained."""

    type: Literal["lora", "none"] = Field(
        "lora", description="`lora` trains an adapter; `none` trains every weight of the model (full fine-tuning)."
    )
    r: int = Field(16, ge=1, description="Rank: higher ranks learn more and use more memory.")
    lora_alpha: int = Field(32, ge=1, description="Scale; the update is multiplied by lora_alpha / r.")
    lora_dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout on the adapter's input; 0 saves 40-50% of the activation memory."
    )
    target_modules: Annotated[Literal["all-linear"] | list[str], BeforeValidator(_modules)] = Field(
        "all-linear", description="Layers that get an adapter: `all-linear` or names such as [q_proj, v_proj]."
    )
    use_rslora: bool = Field(
        False, description="Rank-stabilised LoRA: the update is multiplied by lora_alpha / sqrt(r), for ranks over 64."
    )
    use_dora: bool = Field(
        False,
        description="DoRA: also train the magnitude of each weight row; learns more at low ranks, but is much slower.",
    )
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description="Other ranks for some layers, by name or regular expression, e.g. {down_proj: 32}."
    )
    alpha_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description="Other values of lora_alpha for some layers, by name or regular expression."
    )
    target_parameters: Annotated[Literal["all-experts"] | list[str], BeforeValidator(_experts)] = Field(
        [],
        description="Fused tensors that get an adapter, too: `all-experts` for all experts of a mixture-of-experts "
        "model, or names such as [experts.gate_up_proj].",
    )
    modules_to_save: Annotated[list[str], BeforeValidator(as_list)] = Field(
        [], description="Fully trained layers besides the adapter, e.g. [embed_tokens, lm_head]."
    )
    trainable_token_indices: Annotated[Literal["new"] | list[TokenName], BeforeValidator(_tokens)] = Field(
        [],
        description="Tokens whose embedding rows are trained besides the adapter, by text or id; `new`: those added to "
        "the vocabulary and still untrained.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Dtype of the adapter's weights in training; `auto` is float32; bfloat16 saves memory but loses "
        "small updates.",
    )
    init_from: str | None = Field(
        None,
        pattern=r"^run:.",
        description="`run:<name>` continues from the adapter of another run that has the same base model and the same "
        "adapter settings; null starts with a new adapter.",
    )
