"""The words that ids start with, so that a folder says what is in it."""

import re

from snaketune.config.schema import RunConfig


def method_name(config: RunConfig) -> str:
    """Return the word for what is trained, such as ``qlora-r16``."""
    if config.adapter.type == "none":
        return "full"
    kind = {"none": "lora", "8bit": "lora8bit", "4bit": "qlora"}[config.model.quantization]
    return f"{kind}-r{config.adapter.r}"


def slug(text: str) -> str:
    """Return a plain folder name made of ``text``."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:32] or "data"
