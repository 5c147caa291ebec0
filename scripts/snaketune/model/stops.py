"""The tokens at which an answer ends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from snaketune.model.configuration import CONFIG, GENERATION
from snaketune.model.json_files import read_object

FROM_CONFIG = ("bos_token_id", "eos_token_id", "pad_token_id")


def as_list(tokens: int | list[int] | None) -> list[int]:
    """Return ``eos_token_id`` of a configuration as a list."""
    return [token for token in (tokens if isinstance(tokens, list) else [tokens]) if token is not None]


def turn_end(tokenizer: Any, template: str) -> int | None:
    """Return the special token with which the template ends an answer, None where there is none."""
    answer = "answer"
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": answer}]
    try:
        text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
    except jinja2.TemplateError:
        return None
    _, found, rest = text.rpartition(answer)
    after = tokenizer(rest, add_special_tokens=False)["input_ids"] if found else []
    return after[0] if after and after[0] in tokenizer.all_special_ids else None


def settings_with_stop(folder: Path, tokenizer: Any, template: str) -> dict[str, Any] | None:
    """Return the generation settings of a model that was tuned with a template; None where its own do.

    A base model does not know the token that ends a turn as an end, so that every answer would run on.

    Args:
        folder: the base model.
        tokenizer: that of the tuned model.
        template: what it was tuned with; empty for plain text.
    """
    settings = generation_settings(folder)
    stops, end = as_list(settings.get("eos_token_id")), turn_end(tokenizer, template) if template else None
    return None if end is None or end in stops else {**settings, "eos_token_id": [*stops, end]}


def generation_settings(folder: Path) -> Mapping[str, Any]:
    """Return how the model in ``folder`` generates; without a file of its own as its configuration implies."""
    if (folder / GENERATION).is_file():
        return read_object(folder / GENERATION)
    config = read_object(folder / CONFIG)
    known = {name: config[name] for name in FROM_CONFIG if config.get(name) is not None}
    return {"_from_model_config": True, **known}
