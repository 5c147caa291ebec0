"""The section `evaluate` as stages get it. Generated from the configuration's models: run `make generate`."""

from typing import Literal, TypedDict


class EvaluateSection(TypedDict, total=False):
    """The keys of `evaluate` that decide results; a slice has those its stage depends on."""

    metrics: list[
        Literal[
            "loss",
            "perplexity",
            "bits_per_byte",
            "token_accuracy",
            "preference_accuracy",
            "exact_match",
            "json_valid",
            "json_equal",
            "numeric_match",
            "chrf",
            "bleu",
            "rouge_l",
        ]
    ]
    normalize: list[Literal["whitespace", "case", "punctuation", "articles", "unicode", "strip"]]
    files: list[str]
    columns: dict[str, str]
    tasks: list[str]
    reward_model: str | None
    max_samples: int
    max_new_tokens: int
    batch_size: int
    latency_requests: int
