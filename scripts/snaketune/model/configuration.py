"""The configuration of a model as its folder states it."""

import json
from pathlib import Path
from typing import Any

from snaketune.common.atomic import write_bytes

CONFIG, GENERATION = "config.json", "generation_config.json"


def with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return the configuration with its number format replaced, also under the name of older versions."""
    config = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": dtype}
    for key, value in config.items():
        if isinstance(value, dict) and ("dtype" in value or "torch_dtype" in value):
            config[key] = with_dtype(value, dtype)
    return config


def write_configuration(path: Path, value: dict[str, Any]) -> None:
    """Write JSON as transformers does; its configurations may hold integers beyond 64 bits, which orjson refuses."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())
