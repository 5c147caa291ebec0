"""The section `data` as stages get it. Generated from the configuration's models: run `make generate`."""

from typing import Literal, TypedDict


class SourceSection(TypedDict, total=False):
    """A source with its own settings; a plain string is a source with only a path."""

    path: str
    name: str | None
    format: Literal["auto", "messages", "sharegpt", "preference", "instruction", "prompt_completion", "text"] | None
    columns: dict[str, str] | None
    split: str | None
    config: str | None
    weight: float
    max_records: int | None


class DataSection(TypedDict, total=False):
    """The keys of `data` that decide results; a slice has those its stage depends on."""

    sources: list[str | SourceSection]
    max_records: int | None
    seed: int
    format: Literal["auto", "messages", "sharegpt", "preference", "instruction", "prompt_completion", "text"]
    columns: dict[str, str]
    ignore: list[str]
    roles: dict[str, Literal["system", "user", "assistant", "tool"]]
    strip: list[str]
    system_prompt: str | None
    max_bad_fraction: float
