"""The section `merge` as stages get it. Generated from the configuration's models: run `make generate`."""

from typing import Literal, TypedDict


class MergedAdapterSection(TypedDict, total=False):
    """One of the adapters that are merged together."""

    run: str
    weight: float


class MergeSection(TypedDict, total=False):
    """The keys of `merge` that decide results; a slice has those its stage depends on."""

    enabled: bool
    adapters: list[MergedAdapterSection]
    method: Literal[
        "cat",
        "linear",
        "ties",
        "dare_linear",
        "dare_ties",
        "magnitude_prune",
        "svd",
        "ties_svd",
        "dare_linear_svd",
        "dare_ties_svd",
        "magnitude_prune_svd",
    ]
    density: float
    seed: int
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    rounding: Literal["auto", "nearest", "stochastic"]
    max_shard_size: str
