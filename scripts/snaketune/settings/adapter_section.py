"""The section `adapter` as stages get it. Generated from the configuration's models: run `make generate`."""

from typing import Literal, TypedDict


class AdapterSection(TypedDict, total=False):
    """The keys of `adapter` that decide results; a slice has those its stage depends on."""

    type: Literal["lora", "none"]
    r: int
    lora_alpha: int
    lora_dropout: float
    target_modules: Literal["all-linear"] | list[str]
    use_rslora: bool
    use_dora: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, int]
    target_parameters: Literal["all-experts"] | list[str]
    modules_to_save: list[str]
    trainable_token_indices: Literal["new"] | list[int | str]
    dtype: Literal["auto", "float32", "bfloat16"]
    init_from: str | None
