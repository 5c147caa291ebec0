"""What `snakemake ask` is given: a question or none, and how answers are made."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snaketune.core.errors import ConfigError

EXAMPLE = "--config 'ask={question: \"What is LoRA?\", temperature: 0.7}'"
MODELS = ("auto", "merged", "adapter")


@dataclass(frozen=True, slots=True)
class Request:
    """How answers are made.

    Attributes:
        question: asked once; None opens a conversation.
        run: the run to talk to; None takes the first.
        system: the system prompt; None takes that of the data.
        temperature: 0 always takes the likeliest token.
        top_p: of the likeliest tokens those that make up this share are drawn from.
        max_new_tokens: the longest answer.
        seed: of the draws.
        model: `merged`, `adapter`, or `auto`: the merged model where there is one.
    """

    question: str | None = None
    run: str | None = None
    system: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 42
    model: str = "auto"


def read_request(given: object) -> Request:
    """Return what ``--config ask=…`` says: nothing, a question, or a mapping with some of the settings.

    Raises:
        ConfigError: naming the setting, its value and the fix.
    """
    if given in ("no", [], None, False):
        return Request()
    if not isinstance(given, Mapping):
        if isinstance(given, list):
            raise ConfigError(f"ask is a list: put the question in quotes, as in {EXAMPLE}.")
        return Request(question=str(given))
    request = Request()
    for name, value in given.items():
        request = with_setting(request, str(name), value)
    return request


def with_setting(request: Request, name: str, value: object) -> Request:
    """Return the request with one setting changed; texts are read as numbers where one is wanted.

    Raises:
        ConfigError: if there is no such setting, or it cannot have this value.
    """
    fields = {field.name: field for field in dataclasses.fields(Request)}
    if name not in fields:
        raise ConfigError(
            f"ask: {name!r} is not a setting: use {', '.join(fields)}; a question with a colon is given as in "
            f"{EXAMPLE}."
        )
    allowed = _LIMITS.get(name)
    try:
        read: Any = allowed[0](str(value)) if allowed is not None else str(value)
    except ValueError:
        read = None
    if allowed is not None and (read is None or not allowed[1] <= read <= allowed[2]):
        raise ConfigError(f"ask.{name} is {value!r}: give a number from {allowed[1]} to {allowed[2]}.")
    if name == "model" and read not in MODELS:
        raise ConfigError(f"ask.model is {value!r}: use one of {', '.join(MODELS)}.")
    return dataclasses.replace(request, **{name: read})


_LIMITS: dict[str, tuple[Any, float, float]] = {
    "temperature": (float, 0.0, 10.0),
    "top_p": (float, 0.01, 1.0),
    "max_new_tokens": (int, 1, 1 << 20),
    "seed": (int, 0, 1 << 32),
}
