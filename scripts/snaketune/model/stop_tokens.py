"""The tokens at which an answer ends, and generation settings that include them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from snaketune.data.templates.templates import ChatTemplate
from snaketune.data.templates.turns import Turns
from snaketune.model.configuration import CONFIG, GENERATION
from snaketune.model.json_files import read_object

FROM_CONFIG = ("bos_token_id", "eos_token_id", "pad_token_id")


def ids_as_list(tokens: int | list[int] | None) -> list[int]:
    """Return the ``eos_token_id`` of a configuration, which may be a number, a list or None, as a list."""
    return [token for token in (tokens if isinstance(tokens, list) else [tokens]) if token is not None]


def turn_ends(tokenizer: Any, template: str, stops: Iterable[int]) -> list[int]:
    """Return the tokens that end the template's answers if none of ``stops`` does, ascending.

    Args:
        tokenizer: a tokenizer of transformers.
        template: source of the chat template.
        stops: the tokens at which the model stops already.
    """
    control = re.compile(
        "|".join(sorted(map(re.escape, tokenizer.all_special_tokens), key=len, reverse=True)) or "(?!)"
    )
    own = tokenizer.convert_ids_to_tokens(sorted(stops))
    compiled = ChatTemplate(template, tokenizer.special_tokens_map)
    ends = Turns(compiled, control, [name for name in own if name]).ends - set(own)
    return sorted(tokenizer.convert_tokens_to_ids(sorted(ends)))


def settings_with_stop(folder: Path, tokenizer: Any, template: str) -> dict[str, Any] | None:
    """Return the generation settings of a model tuned with a template; None if the base model's settings suffice.

    A base model's settings do not list the end-of-turn token as a stop token, so every answer would run on.

    Args:
        folder: the base model.
        tokenizer: the tokenizer of the tuned model.
        template: the chat template of the training; empty for plain text.
    """
    settings = generation_settings(folder)
    stops = ids_as_list(settings.get("eos_token_id"))
    more = turn_ends(tokenizer, template, stops) if template else []
    return {**settings, "eos_token_id": [*stops, *more]} if more else None


def generation_settings(folder: Path) -> Mapping[str, Any]:
    """Return the generation settings of the model in ``folder``, from its configuration if it has no file of them."""
    if (folder / GENERATION).is_file():
        return read_object(folder / GENERATION)
    config = read_object(folder / CONFIG)
    known = {name: config[name] for name in FROM_CONFIG if config.get(name) is not None}
    return {"_from_model_config": True, **known}
