"""The section `dedupe` as stages get it. Generated from the configuration's models: run `make generate`."""

from typing import TypedDict


class DedupeSection(TypedDict, total=False):
    """The keys of `dedupe` that decide results; a slice has those its stage depends on."""

    exact: bool
    ignore_case: bool
    near: bool
    threshold: float
    num_perm: int
    ngram: int
