"""The JSON files of a model folder, which were written elsewhere and may be damaged."""

from pathlib import Path
from typing import Any

import orjson

from snaketune.core.errors import ConfigError


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in ``file``, an empty one if the file does not exist.

    Raises:
        ConfigError: if the file holds anything else.
    """
    if not file.is_file():
        return {}
    try:
        content = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{file} is not valid JSON ({error}): copy the model again.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} is not a JSON object: copy the model again.")
    return content
