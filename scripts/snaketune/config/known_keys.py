"""The keys of the configuration, and the hint for a key that is none of them."""

import difflib
from typing import Any

from pydantic import BaseModel

from snaketune.config.aliases import OTHER_NAMES
from snaketune.config.other_tools import FEATURES
from snaketune.config.schema import RunConfig


def suggestion(key: str, model: type[BaseModel], path: str = "") -> str:
    """Return the hint for an unknown key: the feature's setting, another tool's name, the nearest key, or all keys.

    Args:
        key: an unknown key.
        model: the model of its section.
        path: the dotted prefix; a key that means something else in another section is looked up with its prefix.
    """
    section = path.rstrip(".").rsplit(".", 1)[-1]
    if sentence := FEATURES.get(f"{section}.{key}"):
        return sentence
    if key in OTHER_NAMES:
        ours, tools = OTHER_NAMES[key]
        return f"It is {tools}'s name for {ours}."
    # Reversed, so that of two keys with the same name the first in the schema's order is suggested.
    everywhere = {path.rsplit(".", 1)[-1]: path for path in reversed(all_keys())}
    if key in FEATURES and key not in everywhere:
        return FEATURES[key]
    # A loose match within the section, a strict one elsewhere: a short name is similar to many.
    if near := difflib.get_close_matches(key, list(model.model_fields), n=1, cutoff=0.6):
        return f"Did you mean {near[0]}?"
    if key in everywhere:
        return f"It belongs to another section: {everywhere[key]}."
    if near := difflib.get_close_matches(key, list(everywhere), n=1, cutoff=0.8):
        return f"Did you mean {everywhere[near[0]]}?"
    return f"Valid keys are {', '.join(model.model_fields)}."


def all_keys(model: type[BaseModel] = RunConfig, path: str = "") -> list[str]:
    """Return every dotted key of the configuration of a run, in the order of the schema."""
    keys = []
    for key, field in model.model_fields.items():
        section = section_of(field.annotation)
        keys += all_keys(section, f"{path}{key}.") if section else [f"{path}{key}"]
    return keys


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation names, or None for a plain value."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
