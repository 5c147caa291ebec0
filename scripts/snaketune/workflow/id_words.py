"""Folder names: the readable words that ids start with, and the names of runs."""

import re
from collections.abc import Iterable

from snaketune.config.schema import RunConfig
from snaketune.core.errors import ConfigError


def method_name(config: RunConfig) -> str:
    """Return the word for the training method, such as ``qlora-r16``."""
    if config.adapter.type == "none":
        return "full"
    kind = {"none": "lora", "8bit": "lora8bit", "4bit": "qlora"}[config.model.quantization]
    return f"{kind}-r{config.adapter.r}"


def slug(text: str) -> str:
    """Return a plain folder name made of ``text``."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:32] or "data"


def check_distinct(names: Iterable[str], place: str) -> None:
    """Refuse run names that collide on case-insensitive disks, such as those of macOS and Windows.

    Raises:
        ConfigError: naming both.
    """
    known: dict[str, str] = {}
    for name in names:
        if (other := known.setdefault(name.lower(), name)) != name:
            raise ConfigError(
                f"{place}: the runs {other} and {name} differ only by case and would share a folder on some disks: "
                "rename one."
            )
