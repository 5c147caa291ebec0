"""The section `split` as stages get it. Generated from the configuration's models: run `make generate`."""

from typing import TypedDict


class SplitSection(TypedDict, total=False):
    """The keys of `split` that decide results; a slice has those its stage depends on."""

    test_size: float
    seed: int
    stratify: bool
    max_similarity: float | None
    max_alike: int | None
    decontaminate: list[str]
