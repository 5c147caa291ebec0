"""A model whose own code fails on rows of text: one sentence instead of a traceback out of transformers."""

from collections.abc import Iterator
from contextlib import contextmanager

from snaketune.core.errors import SnaketuneError, TrainingError
from snaketune.train.determinism import NOT_DETERMINISTIC
from snaketune.train.out_of_memory import ran_out_of_memory


@contextmanager
def explaining_unfit_model(kind: str, what: str = "fails on a row of text") -> Iterator[None]:
    """Turn any exception of the code of ``kind`` models into a TrainingError.

    Exhausted memory, non-deterministic operations and our own errors pass unchanged: they have their own messages.

    Args:
        kind: ``model_type``.
        what: what such a model does, in words.

    Raises:
        TrainingError: with the first line of the reason.
    """
    try:
        yield
    except SnaketuneError:
        raise
    except Exception as error:  # every architecture fails in its own way; the reason is passed on
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if ran_out_of_memory(error) or NOT_DETERMINISTIC in reason:
            raise
        raise TrainingError(
            f"model.name_or_path: a {kind} model with these settings {what} ({type(error).__name__}:"
            f" {reason}): correct its config.json, or choose another model."
        ) from error
