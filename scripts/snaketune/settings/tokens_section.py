"""The section `tokens` as stages get it. Generated from the configuration's models: run `make generate`."""

from typing import Literal, TypedDict


class TokensSection(TypedDict, total=False):
    """The keys of `tokens` that decide results; a slice has those its stage depends on."""

    chat_template: str | None
    assistant_only_loss: bool
    reasoning: Literal["auto", "train", "drop"]
    date: str
    max_length: Literal["auto"] | int
    coverage: float
    pad_to_multiple_of: int
    on_too_long: Literal["drop", "truncate", "error"]
    max_dropped_fraction: float
    packing: bool
