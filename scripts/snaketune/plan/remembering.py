"""Answers about a model configuration, remembered for the life of the process: planning asks them many times."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def remembered(function: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Return ``function(config, ...)`` with its answers kept by the content of the configuration and the arguments.

    The configurations of transformers are mutable and cannot be keys themselves; errors are not kept.
    """
    answers: dict[tuple, R] = {}

    @wraps(function)
    def asked(config: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        key = (type(config), config.to_json_string(use_diff=False), args, tuple(sorted(kwargs.items())))
        if key not in answers:
            answers[key] = function(config, *args, **kwargs)
        return answers[key]

    return asked
