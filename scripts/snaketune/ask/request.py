"""The request of `snakemake ask`: an optional question, and generation settings."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snaketune.core.errors import ConfigError

ASK_EXAMPLE = "--config 'ask={question: \"What is LoRA?\", temperature: 0.7}'"
MODEL_CHOICES = ("auto", "merged", "adapter")


@dataclass(frozen=True, slots=True)
class AskRequest:
    """A question and generation settings.

    Attributes:
        question: asked once; None opens a conversation.
        run: the run to talk to; None means the first.
        system: the system prompt; None means that of the data.
        temperature: sampling temperature; 0 is greedy decoding.
        top_p: probability mass of nucleus sampling.
        max_new_tokens: maximum length of an answer.
        seed: seed of the sampling.
        model: `merged`, `adapter`, or `auto` (the merged model if it exists).
    """

    question: str | None = None
    run: str | None = None
    system: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 42
    model: str = "auto"


def read_request(given: object) -> AskRequest:
    """Return the request given by ``--config ask=…``: nothing, a question, or a mapping of settings.

    Raises:
        ConfigError: if a setting is invalid, with its value and the fix.
    """
    if given in ("no", [], None, False):
        return AskRequest()
    if not isinstance(given, Mapping):
        if isinstance(given, list):
            raise ConfigError(f"ask is a list: put the question in quotes, as in {ASK_EXAMPLE}.")
        return AskRequest(question=str(given))
    request = AskRequest()
    for name, value in given.items():
        request = with_setting(request, str(name), value)
    return request


def with_setting(request: AskRequest, name: str, value: object) -> AskRequest:
    """Return the request with one setting changed; text is parsed if the setting is a number.

    Raises:
        ConfigError: if the setting is unknown or the value invalid.
    """
    fields = {field.name: field for field in dataclasses.fields(AskRequest)}
    if name not in fields:
        raise ConfigError(
            f"ask: {name!r} is not a setting: use {', '.join(fields)}; a question with a colon is given as in "
            f"{ASK_EXAMPLE}."
        )
    allowed = _LIMITS.get(name)
    try:
        read: Any = allowed[0](str(value)) if allowed is not None else str(value)
    except ValueError:
        read = None
    if allowed is not None and (read is None or not allowed[1] <= read <= allowed[2]):
        raise ConfigError(f"ask.{name} is {value!r}: give a number from {allowed[1]} to {allowed[2]}.")
    if name == "model" and read not in MODEL_CHOICES:
        raise ConfigError(f"ask.model is {value!r}: use one of {', '.join(MODEL_CHOICES)}.")
    return dataclasses.replace(request, **{name: read})


_LIMITS: dict[str, tuple[Any, float, float]] = {
    "temperature": (float, 0.0, 10.0),
    "top_p": (float, 0.01, 1.0),
    "max_new_tokens": (int, 1, 1 << 20),
    "seed": (int, 0, 1 << 32),
}
