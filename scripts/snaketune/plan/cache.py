"""Answers about a model configuration, remembered for the life of the process: planning asks them many times."""

import json
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

PLACE = "_name_or_path"  # where a configuration was read decides nothing
P = ParamSpec("P")
R = TypeVar("R")


def remembered(function: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Return ``function(config, ...)`` with its answers kept by the content of the configuration and the arguments.

    The configurations of transformers are mutable and cannot be keys themselves; errors are not kept.
    """
    answers: dict[tuple, R] = {}

    @wraps(function)
    def asked(config: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        content = {name: value for name, value in config.to_dict().items() if name != PLACE}
        key = (type(config), json.dumps(content, sort_keys=True, default=str), args, tuple(sorted(kwargs.items())))
        if key not in answers:
            answers[key] = function(config, *args, **kwargs)
        return answers[key]

    return asked
