"""Texts that may be names of files."""

import os

from snaketune.core.atomic import LONGEST_NAME
from snaketune.core.errors import ConfigError

LONGEST_PATH = 4095


def could_be_path(text: str) -> bool:
    """Tell whether a file could have this path; asking the system about any other is an error, not a no."""
    return (
        "\0" not in text
        and len(os.fsencode(text)) <= LONGEST_PATH
        and all(len(os.fsencode(part)) <= LONGEST_NAME for part in text.split("/"))
    )


def require_path(text: str, key: str) -> None:
    """Refuse what no file can be called.

    Raises:
        ConfigError: naming the key and the beginning of the text.
    """
    if not could_be_path(text):
        raise ConfigError(
            f"{key}: {text[:60]!r}... cannot be a path: a name in it is longer than {LONGEST_NAME} bytes, or there is a"
            " NUL in it: correct it."
        )
