"""What makes merged weights a model: configuration, tokenizer, chat template, licence."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from snaketune.common.atomic import write_bytes
from snaketune.common.canonical import read_json

CONFIG = "config.json"
TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
KINDS = {".json", ".txt", ".model", ".jinja", ".py", ".tiktoken"}
LICENCES = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")


def copy_companions(base_folder: Path, folder: Path, dtype: torch.dtype, template: str) -> None:
    """Copy everything but weights and read-me from the base model and make it fit the merged one.

    Args:
        base_folder: the base model.
        folder: the merged model, which has its weights already.
        dtype: number format that ``config.json`` states.
        template: the chat template the model was tuned with; empty keeps the base model's.
    """
    for path in sorted(base_folder.iterdir()):
        if path.is_file() and _travels(path):
            shutil.copyfile(path, folder / path.name)
    _write(folder / CONFIG, _with_dtype(read_json(base_folder / CONFIG), dtype))
    if template:
        _replace_template(folder, template)


def _travels(path: Path) -> bool:
    if path.name.upper().startswith(LICENCES):
        return True
    is_weights = path.name.endswith(".index.json")
    return path.suffix in KINDS and not is_weights and not path.name.startswith(".")


def _with_dtype(config: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return the configuration with its number format replaced, also under the name of older versions."""
    name = str(dtype).removeprefix("torch.")
    config = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": name}
    for key, value in config.items():
        if isinstance(value, dict) and ("dtype" in value or "torch_dtype" in value):
            config[key] = _with_dtype(value, dtype)
    return config


def _replace_template(folder: Path, template: str) -> None:
    # A template in the tokenizer's configuration would compete with the file.
    path = folder / TOKENIZER_CONFIG
    if path.is_file():
        _write(path, {key: value for key, value in read_json(path).items() if key != "chat_template"})
    (folder / "chat_template.json").unlink(missing_ok=True)
    write_bytes(folder / TEMPLATE, template.encode())


def _write(path: Path, value: dict[str, Any]) -> None:
    """Write JSON as transformers does; its configurations may hold integers beyond 64 bits, which orjson refuses."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())
