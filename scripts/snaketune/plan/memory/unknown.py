"""Architectures that cannot be planned because their code fails on meta tensors: the plan reports unknown."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from snaketune.core.errors import PlanError, SnaketuneError


@contextmanager
def unknown_instead(config: Any, what: str) -> Iterator[None]:
    """Turn any exception of an architecture's code into a PlanError; our own errors pass unchanged.

    Args:
        config: the ``PreTrainedConfig`` of the model.
        what: what was to be planned, e.g. ``memory``.

    Raises:
        PlanError: with the first line of the reason. Its callers continue without the figure.
    """
    try:
        yield
    except SnaketuneError:
        raise
    except Exception as error:  # exceptions differ between architectures; the message is passed on
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise PlanError(
            f"model.name_or_path: the {what} of a {config.model_type} model cannot be planned ({type(error).__name__}:"
            f" {reason}), so its memory is unknown: measure a short run with plan.probe."
        ) from error
